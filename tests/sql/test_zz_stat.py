from hypothesis import settings, HealthCheck, Phase, Verbosity
import tests.sql.test_state_machine as M


def test_x(db, start_pod):
    M.run_state_machine_as_test(
        lambda: M.JobLives(db, start_pod),
        settings=settings(
            max_examples=6,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.generate],
            verbosity=Verbosity.debug,
        ),
    )
