"""The training of a healing: steps of AdamW on the parameters that train, validation, resume points, and when to stop."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, NamedTuple, cast

import torch

from bondwise.errors import Cancelled, UserError
from bondwise.evaluate import greedy_sample
from bondwise.heal_loss import mixed_loss
from bondwise.heal_pass import labelled_logits, lower_frozen, precision
from bondwise.heal_plan import WINDOW, Timing, learning_rate, make_plan, pause, runs_away
from bondwise.heal_state import HealState
from bondwise.schema import HealPlanEvent, HealStepEvent, HealValidationEvent
from bondwise.teacher_logits import likeliest
from bondwise.team import whole
from bondwise.trainable import find_parameters

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from bondwise.heal_state import HealStore
    from bondwise.packing import Feed, FeedState, Packed
    from bondwise.run import Run
    from bondwise.schema import HealOptions
    from bondwise.teacher_logits import Likeliest, TeacherStore
    from bondwise.team import Team
    from bondwise.told import Told


BETAS = (0.9, 0.95)
"""Of AdamW. A healing has a few hundred steps, from gradients that fall fast: their squares of long ago say little."""


class Task(NamedTuple):
    """What is healed, towards what, on what."""

    source: str
    """Fingerprint of the compressed folder."""
    container: str | None
    """The path of the blocks."""
    model: PreTrainedModel
    teacher: PreTrainedModel | None
    tokenizer: PreTrainedTokenizerBase
    shapes: Mapping[str, torch.Size]
    """What trains, by the names of its tensors in the folder."""
    free: Sequence[str]
    """The layers whose gauge is free while they train (`free_gauge`)."""
    trains: int
    parameters: int
    """Numbers in the folder: that train, and all."""
    data: Feed
    kept: TeacherStore | None
    """What the teacher has said before."""
    epoch: int | None
    """Sequences in one, of the first source; None where the data is a stream."""
    validation: Sequence[Packed]


class _Diverged(Exception):
    """The message says how."""


class _Pace:
    """What was done since the last told step; sums over steps."""

    def __init__(self) -> None:
        self.began = self.since = time.monotonic()
        self.steps = 0
        self.loss = self.cross_entropy = self.gradient = 0.0


class Healer:
    """Trains `task.model` in place. The same options, data and device give the same parameters, however often the run was resumed; another
    number of processes gives those of the same sums in another order."""

    def __init__(self, run: Run, options: HealOptions, task: Task, store: HealStore, told: Told, team: Team) -> None:  # noqa: PLR0917
        """To be made within `team.together()`."""
        self._run, self._options, self._task, self._store, self._told, self._team = run, options, task, store, told, team
        for parameter in self._trainable():
            parameter.data = parameter.data.float()  # small changes are lost in bfloat16
        if options.recompute:
            task.model.activation_checkpointing_enable({"use_reentrant": False})
        # That of a teacher alone may be another one; parts of it are on each process's own.
        self._teacher_device = run.device if task.teacher is None or team.world > 1 else str(task.teacher.device)
        for model, device in ((task.model, run.device), (task.teacher, self._teacher_device)):
            if model is not None:
                lower_frozen(model, device)
                team.share_out(model, task.container)
        self._trained = dict(zip(task.shapes, self._trainable(), strict=True))
        fused = run.device.partition(":")[0] in ("cpu", "cuda")
        self._optimizer = torch.optim.AdamW(
            list(self._trained.values()), lr=options.learning_rate, betas=BETAS, weight_decay=options.weight_decay, fused=fused
        )

    def _trainable(self) -> list[torch.nn.Parameter]:
        return list(find_parameters(self._task.model, tuple(self._task.shapes)).values())

    def train(self) -> HealState:
        """Goes on from the last resume point, else begins. The best parameters are in the store.

        A run that is cancelled is kept whole before Cancelled passes on. Raises UserError when the loss is or becomes no number, or runs
        away, before any validation was better than the first.
        """
        state = self._resumed() or self._begun()
        plan = state.plan
        self._run.emit(
            HealPlanEvent, plan=plan, prompt=self._options.prompt, teacher_loss=state.teacher_loss, teacher_sample=state.teacher_sample
        )
        self._run.phase("Healing")
        self._run.progress(state.tokens, plan.steps * plan.tokens_per_step, "tokens")
        try:
            self._steps(state)
        except _Diverged as failure:
            self._end_diverged(state, str(failure))
        except Cancelled:
            self._save(state)
            raise
        self._save(state)
        return state

    # --- begin and end ---------------------------------------------------------------------------------------------------------------

    def _resumed(self) -> HealState | None:
        saved = self._store.latest()
        if self._team.first(-1.0 if saved is None else saved.state.step)[0] != (-1.0 if saved is None else saved.state.step):
            raise UserError(
                f"The processes of this run do not see the same resume points in {self._run.checkpoints}.",
                "Put the run directory where all machines have it.",
            )
        if saved is None:
            return None
        if saved.state.source != self._task.source:
            raise UserError("The compressed model was changed since this run began.", "Start a new run.")
        self._store.load(saved, self._trained, self._optimizer)
        self._task.data.resume(cast("FeedState", saved.state.data))
        return saved.state

    def _begun(self) -> HealState:
        options, task = self._options, self._task
        self._run.phase("Validating the model before healing")
        teacher_loss, teacher_sample = None, ""
        if task.teacher is not None:
            teacher_loss, teacher_sample = self._loss(task.teacher, self._teacher_device), self._sample(task.teacher)
        began = time.monotonic()
        start, sample = self._loss(task.model, self._run.device), self._sample(task.model)
        seconds = time.monotonic() - began
        if not math.isfinite(start):
            raise UserError(
                f"The loss of the compressed model is {start} before any training.", "Its weights overflow: compress it anew, or less."
            )
        self._run.emit(HealValidationEvent, step=0, loss=start, best=True, sample=sample)
        timing = Timing(*self._team.first(self._timed_step(), seconds)) if options.minutes is not None else None
        plan = make_plan(options, timing=timing, epoch=task.epoch, trained=task.trains, parameters=task.parameters)
        state = HealState(
            source=task.source,
            plan=plan,
            data=dict(task.data.state()),
            teacher_loss=teacher_loss,
            teacher_sample=teacher_sample,
            start_loss=start,
            best_loss=start,
        )
        self._store.save_best(0, self._trained)
        self._save(state)
        return state

    def _timed_step(self) -> float:
        """Seconds; nothing is changed by it. One sequence goes before, so that what is done once is not counted."""
        self._run.phase("Timing a step")
        data = self._task.data
        before = data.state()
        for packs in ([next(data)], self._packs()):
            began = time.monotonic()
            self._gradients(packs)
        seconds = time.monotonic() - began
        self._optimizer.zero_grad(set_to_none=True)
        data.resume(before)
        return seconds

    def _end_diverged(self, state: HealState, how: str) -> None:
        advice = f"Start again with a lower learning rate, such as {self._options.learning_rate / 3:.1g} (--learning-rate)."
        if state.best_step == 0:
            raise UserError(how, advice)
        self._told.warn(f"{how} What was best so far, step {state.best_step}, is kept. {advice}")
        state.stopped = "diverged"

    def _save(self, state: HealState) -> None:
        self._store.save(state, self._trained, self._optimizer)

    # --- steps -----------------------------------------------------------------------------------------------------------------------

    def _steps(self, state: HealState) -> None:
        plan, options = state.plan, self._options
        saved, pace = time.monotonic(), _Pace()
        while state.stopped is None:
            last = state.step == plan.steps
            # Before the first step there is nothing to keep. What one process sees of the clock and the folder counts for all.
            asked, due = map(
                bool,
                self._team.first(
                    float(state.step > 0 and self._run.asked_to_finish()), float(time.monotonic() - saved > 60 * options.save_minutes)
                ),
            )
            if due:
                self._save(state)
                saved = time.monotonic()
            if state.validated < state.step and (last or asked or state.step % plan.validate_every == 0):
                self._validate(state)
            if last:
                state.stopped = "budget"
            elif asked:
                state.stopped = "asked"
            elif options.patience is not None and state.worse >= options.patience:
                state.stopped = "plateau"
            else:
                self._step(state, pace)

    def _step(self, state: HealState, pace: _Pace) -> None:
        plan, data = state.plan, self._task.data
        torch.manual_seed(self._run.request.seed + state.step)
        packs = self._packs()
        try:
            loss, cross_entropy = self._gradients(packs)
            norm = float(whole(torch.nn.utils.clip_grad_norm_(list(self._trained.values()), self._options.clip)))
            rate = learning_rate(state.step, plan, self._options.learning_rate)
            where = f"at step {state.step + 1} of {plan.steps} (learning rate {rate:.2g})"
            if not math.isfinite(loss) or not math.isfinite(norm):
                raise _Diverged(f"The loss or its gradient is no number any more {where}: {loss}, {norm}.")
            for group in self._optimizer.param_groups:
                group["lr"] = rate
            self._optimizer.step()
        finally:
            self._optimizer.zero_grad(set_to_none=True)
        state.losses = [*state.losses, loss][-WINDOW:]
        if len(state.losses) == WINDOW:
            mean = sum(state.losses) / WINDOW
            state.lowest = mean if state.lowest is None else min(state.lowest, mean)
        state.step += 1
        state.tokens += plan.tokens_per_step
        state.data = dict(data.state())
        self._tell(state, pace, loss=loss, cross_entropy=cross_entropy, gradient=norm, rate=rate)
        if state.lowest is not None and runs_away(state.losses, state.lowest):
            raise _Diverged(f"The loss runs away {where}: {sum(state.losses) / WINDOW:.2f} after {state.lowest:.2f}.")

    def _packs(self) -> list[Packed]:
        """This process's part of the sequences of a step."""
        return [next(self._task.data) for _ in range(self._options.batch // self._team.world)]

    def _gradients(self, packs: Sequence[Packed]) -> tuple[float, float]:
        """Adds the gradients of a step; its loss and its cross entropy, nats per labelled token of all processes."""
        options, task, team = self._options, self._task, self._team
        labelled = team.sums(sum(int((pack.labels[1:] >= 0).sum()) for pack in packs))[0]
        if labelled == 0:
            return 0.0, 0.0
        task.model.train()
        mixed = cross_entropy = 0.0
        for at, pack in enumerate(packs, start=1):
            team.check()
            team.exchange_gradients(task.model, at == len(packs))
            logits, labels = labelled_logits(task.model, pack, self._run.device)  # [labelled, vocabulary], [labelled]
            teacher = self._expected(pack)
            losses = mixed_loss(logits, labels, teacher, distill=options.distill, temperature=options.temperature)
            # Gradients are averaged over the processes.
            (losses.mixed * team.world / labelled).backward()
            mixed += float(losses.mixed.detach())
            cross_entropy += float(losses.cross_entropy)
        mixed, cross_entropy = team.sums(mixed, cross_entropy)
        return mixed / labelled, cross_entropy / labelled

    @torch.no_grad()
    def _expected(self, pack: Packed) -> Tensor | Likeliest | None:
        """What the original says where a label follows, on the model's device."""
        teacher, kept, options = self._task.teacher, self._task.kept, self._options
        if teacher is None:
            return None
        found = None if kept is None else kept.read(pack)
        # Parts of the teacher are on every process: all ask it, or none.
        if kept is not None and not self._team.sums(float(found is None))[0]:
            return found
        logits = labelled_logits(teacher, pack, self._teacher_device)[0]
        if kept is None or options.teacher_top is None:
            return logits.to(self._run.device)
        if found is None:
            found = likeliest(logits, options.teacher_top, options.temperature)
            kept.write(pack, found)
        return found

    def _tell(self, state: HealState, pace: _Pace, *, loss: float, cross_entropy: float, gradient: float, rate: float) -> None:
        plan = state.plan
        self._run.progress(state.tokens, plan.steps * plan.tokens_per_step, "tokens")
        pace.steps += 1
        pace.loss, pace.cross_entropy, pace.gradient = pace.loss + loss, pace.cross_entropy + cross_entropy, pace.gradient + gradient
        memory = self._memory()
        now = time.monotonic()
        if state.step < plan.steps and now - pace.since < pause(now - pace.began):
            return
        self._run.emit(
            HealStepEvent,
            step=state.step,
            loss=pace.loss / pace.steps,
            cross_entropy=pace.cross_entropy / pace.steps,
            gradient=pace.gradient / pace.steps,
            learning_rate=rate,
            tokens_per_second=pace.steps * plan.tokens_per_step / max(now - pace.since, 1e-9),
            memory=memory,
        )
        pace.since, pace.steps = now, 0
        pace.loss = pace.cross_entropy = pace.gradient = 0.0

    def _memory(self) -> dict[str, int]:
        """Bytes by device, of several processes by rank. Every process must come here."""
        used, team = _memory_used(self._run.device), self._team
        if team.world == 1:
            return {self._run.device: used}
        everybody = team.sums(*(float(used * (rank == team.rank)) for rank in range(team.world)))
        return {f"rank {rank}": int(one) for rank, one in enumerate(everybody)}

    # --- validation ------------------------------------------------------------------------------------------------------------------

    def _validate(self, state: HealState) -> None:
        loss = self._loss(self._task.model, self._run.device)
        if not math.isfinite(loss):
            raise _Diverged(f"The validation loss is {loss} after step {state.step} of {state.plan.steps}.")
        sample = self._sample(self._task.model)
        better = loss < state.best_loss
        if better:
            self._store.save_best(state.step, self._trained)
            state.best_loss, state.best_step, state.worse = loss, state.step, 0
        else:
            state.worse += 1
        state.validated = state.step
        self._run.emit(HealValidationEvent, step=state.step, loss=loss, best=better, sample=sample)

    @torch.no_grad()
    def _loss(self, model: PreTrainedModel, device: str) -> float:
        """Cross entropy on the validation sequences, nats per token; each process takes its part of them."""
        model.eval()
        packs, team = self._task.validation, self._team
        total, tokens = 0.0, 0
        for turn in range(0, len(packs), team.world):
            team.check()
            # Where they do not come out even some take one again that another has too: all must go through the model equally often.
            logits, labels = labelled_logits(model, packs[min(turn + team.rank, len(packs) - 1)], device)
            if turn + team.rank < len(packs):
                total += float(mixed_loss(logits, labels, None, distill=0).cross_entropy)
                tokens += len(labels)
        total, tokens = team.sums(total, tokens)
        return total / tokens

    def _sample(self, model: PreTrainedModel) -> str:
        model.eval()
        options, team = self._options, self._team
        with precision(str(model.device)):
            return greedy_sample(model, self._task.tokenizer, options.prompt, options.sample_tokens, team.check, in_step=team.world > 1)


def _memory_used(device: str) -> int:
    """Bytes: the most so far on a CUDA device, else what the process has now."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated(device)
    import psutil

    return psutil.Process().memory_info().rss
