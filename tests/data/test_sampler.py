from hypothesis import given
from hypothesis import strategies as st

from unireplknet.data.sampler import EpochSampler


@given(st.integers(1, 50), st.integers(0, 5), st.integers(0, 5))
def test_sampler_permutes_by_seed_and_epoch(length: int, seed: int, epoch: int) -> None:
    sampler = EpochSampler(length, shuffle=True, seed=seed)
    sampler.set_epoch(epoch)
    draws = list(sampler)
    assert draws == list(sampler)
    assert {d.epoch for d in draws} == {epoch}
    assert sorted(d.index for d in draws) == list(range(length))


def test_epochs_are_shuffled_differently_and_evaluation_is_in_order() -> None:
    sampler = EpochSampler(50, shuffle=True)
    first = [d.index for d in sampler]
    sampler.set_epoch(1)
    assert first != [d.index for d in sampler]
    assert [d.index for d in EpochSampler(5, shuffle=False)] == [0, 1, 2, 3, 4]
