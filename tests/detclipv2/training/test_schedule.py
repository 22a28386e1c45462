import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detclipv2.config import OptimConfig, Supervision, SupervisionConfig, TrainConfig
from detclipv2.data.alternation import alternation
from detclipv2.data.order import Segment
from detclipv2.training.schedule import Schedule, global_batch_sizes, pairs_left_out, whole_steps

SAMPLES: dict[Supervision, int] = {"detection": 100, "image_text": 640}


def _config(**changes: Any) -> TrainConfig:
    config = TrainConfig(
        epochs=3.0,
        detection=SupervisionConfig(batch_size=5, image_size=64),
        grounding=None,
        image_text=SupervisionConfig(batch_size=8, global_batch_size=64, image_size=64),
        optim=OptimConfig(warmup_steps=4),
    )
    return replace(config, **changes)


def _schedule(world_size: int, *segments: Segment, **changes: Any) -> Schedule:
    return Schedule(config=_config(**changes), num_samples=SAMPLES, world_size=world_size, segments=segments)


def test_batches_and_steps_of_a_training() -> None:
    config = _config()

    assert global_batch_sizes(config, world_size=2) == {"detection": 10, "image_text": 64}
    assert global_batch_sizes(config, world_size=3) == {"detection": 15, "image_text": 66}  # shares of 22
    # Of detection 20, 10 and 7 steps an epoch, and 10 of pairs.
    assert [whole_steps(config, SAMPLES, world_size=count) for count in (1, 2, 3)] == [90, 60, 51]
    assert whole_steps(replace(config, epochs=0.25), SAMPLES, world_size=2) == 5
    assert whole_steps(replace(config, epochs=1e-9), SAMPLES, world_size=2) == 1
    assert whole_steps(replace(config, epochs=None, num_steps=7), SAMPLES, world_size=5) == 7


def test_a_training_of_one_segment() -> None:
    schedule = _schedule(2)

    assert (schedule.done, schedule.num_steps, schedule.history) == (0, 60, ())
    wanted = alternation(SAMPLES, {"detection": 10, "image_text": 64}, num_steps=60, seed=0)
    assert schedule.types == wanted
    assert [schedule.supervision(step) for step in range(1, 61)] == wanted
    assert Counter(wanted[:20]) == {"detection": 10, "image_text": 10}
    assert [schedule.progress(step) for step in (0, 15, 60)] == [0, Fraction(1, 4), 1]


@pytest.mark.parametrize("done", [1, 7, 59, 60])
def test_an_interrupted_training_goes_on_inside_its_segment(done: int) -> None:
    whole = _schedule(2)
    segments = whole.segments_after(done)

    resumed = _schedule(2, *segments)

    assert sum(segments[-1].num_batches.values()) == done
    assert (resumed.done, resumed.num_steps, resumed.history) == (done, 60, ())
    assert resumed.types == whole.types
    assert resumed.segments_after(60) == whole.segments_after(60)
    assert [resumed.rate_factor(step) for step in range(1, 61)] == [whole.rate_factor(step) for step in range(1, 61)]


def test_other_workers_begin_a_segment_and_keep_the_progress() -> None:
    halfway = _schedule(2).segments_after(30)

    more = _schedule(3, *halfway)

    assert (more.done, more.first_step) == (30, 30)
    assert more.progress(30) == Fraction(1, 2)
    assert len(more.types) == math.ceil(51 / 2)
    assert more.num_steps == 56
    assert more.progress(56) == 1  # 26 of 51 steps are a little more than half
    assert more.history == tuple(halfway)
    assert more.segments_after(40) == [
        *halfway,
        Segment(world_size=3, loader_workers=0, num_batches=dict(Counter(more.types[:10]))),
    ]
    # Its types are another draw, and do not depend on what else was drawn.
    assert more.types != _schedule(3).types[: len(more.types)]
    assert more.types == _schedule(3, *halfway).types
    # And back: a third segment, whatever the first one was.
    back = _schedule(2, *more.segments_after(56 - 13))
    assert len(back.history) == 2
    assert back.progress(43) == Fraction(1, 2) + Fraction(13, 51)
    assert back.num_steps == 43 + math.ceil(60 * (Fraction(1, 2) - Fraction(13, 51)))


def test_other_loader_workers_begin_a_segment_of_equal_steps() -> None:
    halfway = _schedule(2).segments_after(30)

    assert _schedule(2, *halfway, loader_workers=4).num_steps == 60
    assert _schedule(2, *halfway, loader_workers=4).first_step == 30


@given(
    st.lists(st.tuples(st.integers(1, 5), st.integers(0, 2), st.integers(0, 40)), min_size=1, max_size=6),
    st.sampled_from([{"epochs": 1.5}, {"epochs": None, "num_steps": 50}]),
)
def test_any_number_of_changes(parts: list[tuple[int, int, int]], length: dict[str, Any]) -> None:
    segments: list[Segment] = []
    rates, progress = [], Fraction(0)
    for world_size, loader_workers, count in parts:
        schedule = _schedule(world_size, *segments, loader_workers=loader_workers, **length)
        last = min(schedule.num_steps, schedule.done + count)
        assert schedule.progress(schedule.done) == progress
        rates += [schedule.rate_factor(step) for step in range(schedule.done + 1, last + 1)]
        progress = schedule.progress(last)
        segments = schedule.segments_after(last)
    assert 0 <= progress <= 1
    assert all(0 < rate <= 1 for rate in rates)
    rest = _schedule(parts[0][0], *segments, **length)
    assert rest.progress(rest.num_steps) == 1
    # After the warm-up rates never rise.
    falling = rates[5:]
    assert falling == sorted(falling, reverse=True)


def test_warmup_then_cosine() -> None:
    schedule = _schedule(1, epochs=None, num_steps=44)
    rates = [schedule.rate_factor(step) for step in range(1, 46)]

    assert rates[:5] == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0])
    # 40 steps of cosine: a quarter, half and three quarters of the way.
    assert rates[14] == pytest.approx(0.5 * (1 + math.sqrt(0.5)))
    assert rates[24] == pytest.approx(0.5)
    assert rates[34] == pytest.approx(0.5 * (1 - math.sqrt(0.5)))
    assert rates[44] == pytest.approx(0.0)
    assert all(rate > 0 for rate in rates[:44])


def test_warmup_takes_a_tenth_of_a_short_run_at_most() -> None:
    long_warmup = OptimConfig(warmup_steps=1000)

    def rates(num_steps: int) -> list[float]:
        schedule = _schedule(1, epochs=None, num_steps=num_steps, optim=long_warmup)
        return [schedule.rate_factor(step) for step in range(1, min(4, num_steps + 1))]

    assert rates(20) == pytest.approx([0.5, 1.0, 1.0])
    assert rates(1) == pytest.approx([1.0])


def test_a_change_does_not_make_the_rate_jump() -> None:
    before = _schedule(2)
    for step in range(1, 60):
        after = _schedule(3, *before.segments_after(step))
        assert after.rate_factor(step + 1) == pytest.approx(before.rate_factor(step + 1), abs=1e-12)


@pytest.mark.parametrize(
    ("world_size", "changes", "wanted"),
    [
        (4, {}, 1e-3),
        (4, {"reference_batch_size": 20}, 1e-3),
        (1, {"reference_batch_size": 20}, 5e-4),
        (16, {"reference_batch_size": 20}, 2e-3),
    ],
)
def test_the_rate_grows_with_the_root_of_the_boxed_batch(
    world_size: int, changes: Mapping[str, Any], wanted: float
) -> None:
    optim = OptimConfig(learning_rate=1e-3, **changes)

    assert _schedule(world_size, optim=optim).learning_rate == pytest.approx(wanted)
    pairs = {"image_text": 640}
    alone = Schedule(config=_config(optim=optim, detection=None), num_samples=pairs, world_size=world_size)
    assert alone.learning_rate == 1e-3


def test_pairs_may_begin_later_whatever_changes_before() -> None:
    first = _schedule(2, image_text_after=20)
    second = _schedule(3, *first.segments_after(12), image_text_after=20)

    assert set(first.types[:20]) == {"detection"} == set(second.types[:8])
    assert "image_text" in second.types[8:20]


def test_a_training_that_ends_before_pairs_begin_has_its_steps_and_a_warning() -> None:
    short: dict[str, Any] = {"epochs": None, "num_steps": 24, "image_text_after": 160}

    assert _schedule(2, **short).types == ["detection"] * 24
    assert pairs_left_out(_config(**short), SAMPLES, world_size=2) == (
        "image-text pairs never take part: train.image_text_after is 160, and the training has 24 steps; lower it, or train"
        " longer"
    )
    # Epochs of 20 steps with two ranks.
    assert pairs_left_out(_config(image_text_after=59), SAMPLES, world_size=2) is None
    assert pairs_left_out(_config(image_text_after=60), SAMPLES, world_size=2) is not None
    assert pairs_left_out(_config(image_text_after=60), SAMPLES, world_size=1) is None
    assert pairs_left_out(_config(**short), {"detection": 100}, world_size=2) is None


def test_segments_of_another_training() -> None:
    batches: Mapping[Supervision, int] = {"detection": 30}
    other = Segment(world_size=2, loader_workers=0, num_batches=batches)

    with pytest.raises(ValueError, match=r"of another training: in 30 steps it took \{'detection': 30\} batches, this"):
        _schedule(2, other)
    with pytest.raises(
        ValueError, match="segment 0 of the checkpoint is .*world_size=0.*: nothing that a training leaves"
    ):
        _schedule(2, replace(other, world_size=0))


def test_a_longer_training_goes_on_where_a_shorter_one_ended() -> None:
    short = _schedule(2, epochs=None, num_steps=20)
    longer = _schedule(2, *short.segments_after(20), epochs=None, num_steps=50)

    assert (longer.done, longer.num_steps) == (20, 50)
    assert longer.types[:20] == short.types
