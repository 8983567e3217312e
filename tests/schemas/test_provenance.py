from oddsmill.schemas.provenance import provenance_path


def test_each_shard_has_a_table_of_its_own_in_one_folder():
    shards = [f"{split}-0000{index}-of-00002.arrayrecord" for split in ("train", "eval") for index in (0, 1)]
    tables = [provenance_path("out/mine", shard) for shard in shards]
    assert tables[0] == "out/mine/provenance/train-00000-of-00002.parquet"
    assert len(set(tables)) == len(shards)


def test_the_dataset_may_be_in_a_store():
    path = provenance_path("gs://bucket/out", "eval-00000-of-00001.arrayrecord")
    assert path == "gs://bucket/out/provenance/eval-00000-of-00001.parquet"
