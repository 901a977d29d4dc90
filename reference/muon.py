"""The optimizer of the training: Muon for the matrices inside the network, AdamW for everything else.

Muon (Jordan et al. 2024, kellerjordan.github.io/posts/muon) replaces the momentum of a matrix by the nearest orthogonal one; the
factor 0.2 sqrt(max(rows, columns)) gives its update the root mean square of AdamW's (Liu et al. 2025, arXiv 2502.16982), so that
both use one learning rate and one weight decay.
"""

import torch


def orthogonal(g, steps=5):
    """The nearest orthogonal matrix of g [..., m, n], roughly: its singular values come to lie near 1 (Newton-Schulz, quintic)."""
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = g.shape[-2] > g.shape[-1]
    x = g.mT if tall else g
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        s = x @ x.mT
        x = a * x + (b * s + c * s @ s) @ x
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """One step of both. `learning_rate` is set by the caller before each step, in the groups as usual."""

    def __init__(self, model, lr, weight_decay=0.05, momentum=0.95, betas=(0.9, 0.98), largest=256):
        """Matrices whose shorter side exceeds `largest` stay with AdamW: orthogonalising them costs more than it brings on a CPU."""
        matrices, decayed, others = [], [], []
        for name, p in model.named_parameters():
            if not p.requires_grad:
                continue
            inside = p.ndim == 2 and min(p.shape) >= 16 and "embed" not in name and "table" not in name and "lm_head" not in name
            if inside and min(p.shape) <= largest:
                matrices.append(p)
            elif p.ndim > 1:
                decayed.append(p)
            else:
                others.append(p)
        super().__init__([{"params": matrices, "momentum": momentum}], {"lr": lr, "weight_decay": weight_decay})
        groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
        self.adam = torch.optim.AdamW(groups, lr=lr, betas=betas, fused=True)

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            # Matrices of one shape are orthogonalised together: on a GPU a kernel each would take longer than the work.
            alike = {}
            for p in group["params"]:
                if p.grad is None:
                    continue
                average = self.state[p].setdefault("average", torch.zeros_like(p))
                average.lerp_(p.grad, 1 - group["momentum"])
                # Fused query, key and value projections are three matrices.
                parts = 3 if p.shape[0] == 3 * p.shape[1] else 1
                g = p.grad.lerp(average, group["momentum"]).unflatten(0, (parts, -1))
                alike.setdefault(g.shape, []).append((p, g))
            for shape, some in alike.items():
                updates = orthogonal(torch.stack([g for _, g in some])) * (0.2 * max(shape[-2:]) ** 0.5)
                parameters = [p for p, _ in some]
                torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
                torch._foreach_sub_(parameters, [u.flatten(0, 1) for u in updates], alpha=group["lr"])
        for group in self.adam.param_groups:
            group["lr"] = self.param_groups[0]["lr"]
        self.adam.step()

    def zero_grad(self, set_to_none=True):
        super().zero_grad(set_to_none)
        self.adam.zero_grad(set_to_none)

    def state_dict(self):
        return {"muon": super().state_dict(), "adam": self.adam.state_dict()}

    def load_state_dict(self, state):
        super().load_state_dict(state["muon"])
        self.adam.load_state_dict(state["adam"])
