"""The failure throttle: a burst, then a rate, by network."""

from oneprotect.api.auth.authenticator import FailureThrottle


class Clock:
    """A clock that a test advances."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_burst_is_allowed_and_then_one_at_a_time() -> None:
    """An address that failed too often must wait, and each wait allows one more request."""
    clock = Clock()
    throttle = FailureThrottle(burst=3, per_s=0.5, clock=clock)

    for _ in range(3):
        assert throttle.wait_s("192.0.2.1") == 0
        throttle.record("192.0.2.1")
    wait_s = throttle.wait_s("192.0.2.1")
    assert wait_s == 2
    clock.now += wait_s
    assert throttle.wait_s("192.0.2.1") == 0
    throttle.record("192.0.2.1")
    assert throttle.wait_s("192.0.2.1") == 2


def test_others_are_not_held_up() -> None:
    """But all of an IPv6 /64 is one."""
    throttle = FailureThrottle(burst=1, per_s=0.5, clock=Clock())
    throttle.record("192.0.2.1")
    throttle.record("2001:db8::1")

    assert throttle.wait_s("192.0.2.1") > 0
    assert throttle.wait_s("192.0.2.2") == 0
    assert throttle.wait_s("2001:db8::ffff") > 0
    assert throttle.wait_s("2001:db8:0:1::1") == 0
