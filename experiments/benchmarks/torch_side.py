"""PyTorch's side of `against_pytorch.py`: a process that does what it is told, a line at a time, and answers in JSON.

It runs in an environment of PyTorch (`requirements-benchmark.txt`) and knows nothing of cnnjax but arrays in a file.
"""

import json
import sys
import time

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch_networks import NETWORKS, with_weights


def load(model: nn.Module, arrays: list[dict[str, np.ndarray]]) -> None:
    """Copies cnnjax's weights, one dict a layer in the order of the calls."""
    modules = with_weights(model)
    if len(modules) != len(arrays):
        raise ValueError(f"{len(modules)} layers with weights here, {len(arrays)} there.")
    with torch.no_grad():
        for module, given in zip(modules, arrays):
            if isinstance(module, nn.BatchNorm2d):
                weight = given["scale"]
            elif isinstance(module, nn.Linear):
                weight = given["kernel"].T
            elif isinstance(module, nn.ConvTranspose2d):
                weight = given["kernel"][::-1, ::-1].transpose(2, 3, 0, 1)
            else:
                weight = given["kernel"].transpose(3, 2, 0, 1)
            module.weight.copy_(torch.from_numpy(np.ascontiguousarray(weight)))
            if module.bias is not None:
                module.bias.copy_(torch.from_numpy(given["bias"]))


class Trainer:
    """One network with its optimizer and its batch."""

    def __init__(self, name: str, file: str, precision: str, compiled: bool, rate: float, momentum: float, mode: str):
        stored = np.load(file, allow_pickle=False)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        image, label = stored["image"], stored["label"]
        model = NETWORKS[name](image.shape[1], int(stored["classes"]))
        layers = sorted({int(key.split("/")[0]) for key in stored if "/" in key})
        load(model, [{k.split("/")[1]: stored[k] for k in stored if k.startswith(f"{n}/")} for n in layers])
        self.model = model.to(self.device, memory_format=torch.channels_last)
        self.image = torch.from_numpy(image).permute(0, 3, 1, 2).to(self.device, memory_format=torch.channels_last)
        self.label = torch.from_numpy(label.astype(np.int64)).to(self.device)
        self.narrow = precision == "bfloat16"
        self.forward = torch.compile(self.model, mode=mode) if compiled else self.model
        self.optimizer = torch.optim.SGD(self.model.parameters(), rate, momentum, fused=True)

    def loss(self):
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.narrow):
            logits = self.forward(self.image)
        return F.cross_entropy(logits.float(), self.label)

    def first_loss(self, narrow: bool) -> float:
        """As evaluation has it, but by the statistics of the batch: without dropout."""
        dropped = [m for m in self.model.modules() if isinstance(m, nn.Dropout)]
        norms = [m for m in self.model.modules() if isinstance(m, nn.BatchNorm2d)]
        for m in dropped:
            m.eval()
        for m in norms:
            m.track_running_stats, m.kept = False, (m.running_mean, m.running_var)
            m.running_mean = m.running_var = None
        with torch.no_grad(), torch.autocast(self.device.type, torch.bfloat16, enabled=narrow):
            loss = F.cross_entropy(self.model(self.image).float(), self.label).item()
        for m in dropped:
            m.train()
        for m in norms:
            m.track_running_stats, (m.running_mean, m.running_var) = True, m.kept
        return loss

    def seconds(self, steps: int) -> list[float]:
        taken = []
        for _ in range(steps):
            started = time.perf_counter()
            self.optimizer.zero_grad(set_to_none=True)
            self.loss().backward()
            self.optimizer.step()
            if self.device.type == "cuda":
                torch.cuda.synchronize()
            taken.append(time.perf_counter() - started)
        return taken


def main() -> None:
    trainers: dict[str, Trainer] = {}
    torch.backends.cudnn.benchmark = True
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    answers, sys.stdout = sys.stdout, sys.stderr  # what libraries print is no answer
    print(json.dumps(dict(torch=torch.__version__)), file=answers, flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        try:
            if order["do"] == "make":
                trainers[order["as"]] = trainer = Trainer(**order["with"])
                answer = dict(loss=trainer.first_loss(trainer.narrow))
            elif order["do"] == "loss":
                answer = dict(loss=trainers[order["as"]].first_loss(False))
            else:
                answer = dict(seconds=trainers[order["as"]].seconds(order["steps"]))
        except Exception as error:  # it is the caller's to judge
            answer = dict(error=f"{type(error).__name__}: {error}"[:500])
        print(json.dumps(answer), file=answers, flush=True)


main()
