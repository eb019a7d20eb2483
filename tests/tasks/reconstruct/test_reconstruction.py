from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from convatlas.data.batches import Batch
from convatlas.errors import DataError, TrainingError
from convatlas.tasks.reconstruct.explanation import column_errors, column_shares
from convatlas.tasks.reconstruct.task import Reconstruction, errors, scores

TASK = Reconstruction(baseline=1.0)
ROWS = torch.tensor([[1.0, 2.0, 3.0, 4.0], [0.0, 0.0, 1.0, 1.0], [2.0, 2.0, 2.0, 2.0]])
REBUILT = ROWS + torch.tensor([[0.0, 1.0, 0.0, -1.0], [2.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
BATCH = Batch(ROWS, ROWS, 3)


def test_a_score_is_the_mean_squared_error_and_features_add_up_to_it() -> None:
    assert scores(REBUILT, ROWS).tolist() == [0.5, 1.0, 0.0]
    torch.testing.assert_close(errors(REBUILT, ROWS).sum(dim=1), scores(REBUILT, ROWS))
    assert errors(REBUILT, ROWS).dtype == torch.float64


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_row_that_cannot_be_ranked_is_refused_not_passed_as_normal(bad: float) -> None:
    rebuilt = REBUILT.clone()
    rebuilt[1, 2] = bad
    with pytest.raises(DataError, match="1 of 3 rows are rebuilt as numbers that are not finite"):
        scores(rebuilt, ROWS)


def test_a_step_minimises_the_summed_loss() -> None:
    step = TASK.objective(REBUILT, BATCH)
    assert step.objective == step.tallies[0] == 1.5
    assert [column.name for column in TASK.columns] == ["loss"]


def test_a_penalty_counts_in_what_is_minimised_and_not_in_what_is_shown() -> None:
    step = TASK.objective((REBUILT, torch.tensor(0.25)), BATCH)
    assert step.objective == 1.75
    assert step.tallies[0] == 1.5


def test_a_gradient_reaches_the_network_through_rows_and_penalty() -> None:
    rebuilt, penalty = REBUILT.clone().requires_grad_(), torch.tensor(0.25, requires_grad=True)
    TASK.objective((rebuilt, penalty), BATCH).objective.backward()
    torch.testing.assert_close(rebuilt.grad, (REBUILT - ROWS) * 2 / 4)
    assert penalty.grad == 1


def test_half_precision_outputs_are_compared_in_single() -> None:
    step = TASK.objective(REBUILT.bfloat16(), BATCH)
    assert step.objective.dtype == torch.float32


def test_judges_of_several_processes_are_one() -> None:
    whole, first, second = TASK.judge(), TASK.judge(), TASK.judge()
    whole.add(REBUILT, BATCH)
    first.add(REBUILT[:1], Batch(ROWS[:1], ROWS[:1], 3))
    second.add(REBUILT[1:], Batch(ROWS[1:], ROWS[1:], 3))
    merged = type(first).merged([first, second]).result()
    assert merged == whole.result()
    assert merged.figures == {"loss": 0.5}


def test_nothing_to_judge_and_numbers_that_are_none_are_errors() -> None:
    with pytest.raises(DataError, match="received 0 rows"):
        TASK.judge().result()
    with pytest.raises(TrainingError, match="not finite"):
        TASK.judge().add(REBUILT * float("inf"), BATCH)


def test_the_smaller_loss_is_better() -> None:
    assert TASK.merit({"loss": 0.1}) > TASK.merit({"loss": 0.2})


def test_hidden_layers_that_start_alike_are_named_and_a_last_layer_of_zeros_is_not() -> None:
    network = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 4))
    nn.init.zeros_(network[2].weight)
    assert TASK.finding_before(network) is None
    nn.init.constant_(network[0].weight, 0.1)
    assert "every unit of 0 starts" in str(TASK.finding_before(network))
    assert TASK.finding_before(nn.ReLU()) is None


def test_the_loss_of_answering_with_the_mean_is_called_by_its_name() -> None:
    finding = TASK.finding_after_start({"loss": 0.999}, learning_rate=0.5)
    assert "mean of all rows" in str(finding)
    assert "0.5" in str(finding)
    assert TASK.finding_after_start({"loss": 0.6}, 0.5) is None
    # The mean over a first epoch at a small rate lies above: it began with random answers, and it learns.
    assert TASK.finding_after_start({"loss": 1.2}, 1e-4) is None
    assert Reconstruction(baseline=0.0).finding_after_start({"loss": 0.0}, 0.1) is None


def test_a_network_that_is_dead_gets_the_finding() -> None:
    rows = torch.randn(500, 4, generator=torch.Generator().manual_seed(0))

    class Dead(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            return torch.zeros_like(inputs)

    step = TASK.objective(TASK.outputs(Dead(), rows), Batch(rows, rows, 500))
    baseline = float(rows.double().var(dim=0, correction=0).mean())
    assert Reconstruction(baseline).finding_after_start({"loss": step.tallies[0].item() / 500}, 0.1) is not None


def test_features_of_one_column_count_together_and_still_add_up() -> None:
    parts = np.random.default_rng(0).random((50, 6))
    columns = column_errors(parts, [2, 0, 0, 1, 2, 2], 4)
    assert columns.shape == (50, 4)
    np.testing.assert_allclose(columns.sum(axis=1), parts.sum(axis=1))
    np.testing.assert_allclose(columns[:, 0], parts[:, 1] + parts[:, 2])
    assert (columns[:, 3] == 0).all()
    np.testing.assert_allclose(column_shares(columns).sum(axis=1), 1)


def test_no_rows_have_no_columns_errors_either() -> None:
    assert column_errors(np.zeros((0, 3)), [0, 1, 1]).shape == (0, 2)
    with pytest.raises(ValueError, match=r"errors must be \[n, 2\]"):
        column_errors(np.zeros((4, 3)), [0, 1])
