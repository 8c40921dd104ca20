"""The log of a run, by itself."""

from cnnjax.tasks import classification
from cnnjax.training.logbook import Logbook


def test_what_a_checkpoint_carries_is_of_its_own_step(tmp_path):
    """It is written while further steps are added: found by runs that went on with sums of steps after the save."""
    book = dict(start=0, total_steps=9, steps_per_epoch=3.0, batch_size=4, scores_of=classification.scores)
    with Logbook(tmp_path, **book, log=lambda line: None) as logbook:
        logbook.add(dict(count=4.0, loss=2.0, correct=1.0))
        carried = logbook.carried()
        logbook.add(dict(count=4.0, loss=1.0, correct=3.0))
        assert carried["sums"] == dict(count=4.0, loss=2.0, correct=1.0)
        assert logbook.carried()["sums"] == dict(count=8.0, loss=3.0, correct=4.0)
