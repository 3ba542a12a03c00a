import numpy as np

from semid.data.dataset import Dataset
from semid.pipeline.describing import describe_dataset


def test_counts_equal_a_count_by_hand(road):
    dataset = Dataset.open(road.folder / "data")
    description = describe_dataset(dataset)
    log = dataset.events
    spans = zip(log.offsets[:-1], dataset.train_end, strict=True)
    trained = {int(item) for start, end in spans for item in log.items[start:end]}
    assert description.cold_items == dataset.num_items - len(trained)
    assert description.cold_candidates == len(set(dataset.candidates.tolist()) - trained)
    assert description.train_events == int((dataset.train_end - log.offsets[:-1]).sum())
    assert description.held_out_items == 0
    for split, queries in dataset.queries.items():
        asked = [set(queries.target_items[slice(*queries.target_offsets[q : q + 2])]) for q in range(len(queries))]
        assert description.cold_queries[split] == sum(bool(targets - trained) for targets in asked)
    for code, name in enumerate(dataset.action_names):
        assert description.actions[name] == int(np.sum(log.actions == code))
    assert description.item_fields == dict(zip(dataset.item_fields.names, dataset.item_fields.sizes, strict=True))
    assert description.user_fields["106"] == dataset.user_fields.lists["106"].size
    assert description.checksum == dataset.artifact_or_raise.checksum


def test_rows_show_what_people_look_for(road):
    dataset = Dataset.open(road.folder / "data")
    rows = dict(describe_dataset(dataset).rows())
    assert rows["users"] == "260"
    assert rows["embedding 82"] == f"8 wide, {100 * np.mean(dataset.embeddings['82'].valid):.1f}% of items"
    assert "click" in rows["actions"]
    assert "106 (" in rows["user columns"]
