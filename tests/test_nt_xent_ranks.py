"""NT-Xent over processes that gather with gloo, against one process over the whole batch, in float64."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from nt_xent_cases import Case, exact, random_case, relative_errors

pytestmark = pytest.mark.skipif(not torch.distributed.is_available(), reason="torch has no torch.distributed")

# One rank: its share, and the gradients of its rows through a layer that ranks have in common.
RANK = """
import sys
import torch
import torch.distributed as dist
from margformer_fast.backends import use_backend
from margformer_fast.ops.nt_xent import nt_xent_of_rank

folder, rank, backend, *sizes = sys.argv[1:]
rank, sizes = int(rank), [int(size) for size in sizes]
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=len(sizes))


def gather(own):
    # Ranks of unequal size: gloo gathers equal tensors, so the short ones are filled up and cut again.
    longest = own.new_zeros(max(sizes), *own.shape[1:])
    longest[: len(own)] = own
    parts = [torch.empty_like(longest) for _ in sizes]
    dist.all_gather(parts, longest)
    return torch.cat([part[:size] for part, size in zip(parts, sizes)])


case = torch.load(f"{folder}/case.pt")
first = sum(sizes[:rank])
own = slice(first, first + sizes[rank])
z1, z2 = (case[name][own].clone().requires_grad_() for name in ("z1", "z2"))
layer = case["layer"].clone().requires_grad_()
group = None if case["group"] is None else case["group"][own]
with use_backend(backend):
    share = nt_xent_of_rank(
        z1 @ layer, z2 @ layer, temperature=case["temperature"], first=first, gather=gather, group_n=group
    )
    share.backward()
total = share.detach().clone()
dist.all_reduce(total)
dist.all_reduce(layer.grad)
torch.save({"total": total, "z1": z1.grad, "z2": z2.grad, "layer": layer.grad}, f"{folder}/{rank}.pt")
dist.destroy_process_group()
"""


def run_ranks(
    folder: Path, case: Case, layer: torch.Tensor, sizes: list[int], backend: str
) -> list[dict[str, torch.Tensor]]:
    """Start one process a rank, and return what each of them found."""
    folder.mkdir()
    told = {"z1": case.z1, "z2": case.z2, "group": case.group, "temperature": case.temperature}
    torch.save({**told, "layer": layer}, folder / "case.pt")
    script = folder / "rank.py"
    script.write_text(RANK)
    ranks = [
        subprocess.Popen(
            [sys.executable, script, folder, str(rank), backend, *map(str, sizes)],
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(len(sizes))
    ]
    try:
        errors = [rank.communicate(timeout=60)[1] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert all(rank.returncode == 0 for rank in ranks), "\n".join(errors)
    return [torch.load(folder / f"{rank}.pt") for rank in range(len(sizes))]


@pytest.mark.parametrize(
    ("sizes", "backend", "grouped"), [([4, 7], "reference", False), ([3, 10, 1], "auto", True)], ids=str
)
def test_processes_make_the_joint_loss(
    rng: np.random.Generator, tmp_path: Path, sizes: list[int], backend: str, grouped: bool
) -> None:
    case = random_case(rng, sum(sizes), 7, 0.15, grouped=grouped)
    layer = torch.from_numpy(rng.normal(size=(7, 6)))
    found = run_ranks(tmp_path / "ranks", case, layer, sizes, backend)

    leaf = layer.clone().requires_grad_()
    through = Case(case.z1 @ layer, case.z2 @ layer, case.temperature, case.group)
    loss, d1, d2 = exact(through)
    torch.autograd.backward([case.z1 @ leaf, case.z2 @ leaf], [d1, d2])
    got = (
        found[0]["total"],
        torch.cat([each["z1"] for each in found]),
        torch.cat([each["z2"] for each in found]),
    )
    assert max(relative_errors(got, (loss, d1 @ layer.T, d2 @ layer.T))) < 1e-10
    for each in found:
        torch.testing.assert_close(each["total"], loss, rtol=1e-10, atol=0)
        torch.testing.assert_close(each["layer"], leaf.grad, rtol=1e-9, atol=1e-12)
