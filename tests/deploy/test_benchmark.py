import time

from unireplknet.deploy.benchmark import take_turns


def test_calls_take_turns_and_the_minimum_counts() -> None:
    order: list[str] = []

    def sleep(name: str, seconds: float) -> None:
        order.append(name)
        time.sleep(seconds if len(order) > 2 else 0.05)  # the first call of each is not counted

    times = take_turns({"a": lambda: sleep("a", 0.002), "b": lambda: sleep("b", 0.02)}, rounds=3)
    assert order == ["a", "b"] * 4
    assert 0.002 <= times["a"] < times["b"]
    assert times["b"] >= 0.02
