"""The log of a run, by itself."""

from cnnjax import tasks
from cnnjax.training.logbook import Logbook


def test_what_a_checkpoint_carries_is_of_its_own_step(tmp_path):
    """It is written while further steps are added: found by runs that went on with sums of steps after the save."""
    book = dict(start=0, total_steps=9, steps_per_epoch=3.0, batch_size=4, task=tasks.options("classification").build())
    with Logbook(tmp_path, **book, log=lambda line: None) as logbook:
        logbook.add(dict(count=4.0, loss=2.0, correct=1.0))
        carried = logbook.carried()
        logbook.add(dict(count=4.0, loss=1.0, correct=3.0))
        assert carried["sums"] == dict(count=4.0, loss=2.0, correct=1.0)
        assert logbook.carried()["sums"] == dict(count=8.0, loss=3.0, correct=4.0)


def test_sums_of_each_class_are_carried_as_json_can(tmp_path):
    import json

    import numpy as np

    class Task:
        shown = ("loss",)

        @staticmethod
        def scores(sums):
            return dict(loss=float(sums["loss"] / sums["count"]), worst=float(np.min(sums["both"])))

    book = dict(total_steps=9, steps_per_epoch=3.0, batch_size=4, task=Task)
    steps = [dict(count=4.0, loss=2.0, both=np.array([n, 2.0])) for n in (1.0, 5.0)]
    steps = [step | dict(learning_rate=0.1, grad_norm=1.0, param_norm=2.0) for step in steps]
    with Logbook(tmp_path, **book, start=0, log=lambda line: None) as logbook:
        logbook.add(steps[0])
        carried = json.loads(json.dumps(logbook.carried()))
    said = []
    with Logbook(tmp_path, **book, start=1, log=said.append, carried=carried) as logbook:
        logbook.add(steps[1])
        logbook.train(2)
    (entry,) = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert entry["loss"] == 0.5 and entry["worst"] == 4.0
