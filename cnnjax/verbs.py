"""The verbs of the command line, each a short function that calls the library and prints."""

import json
import sys
from pathlib import Path

from cnnjax import command_line
from cnnjax.errors import DoesNotFit, UserError
from cnnjax.usage import FLAGS, FORMAT, FROM, SPLIT, WHICH, WORKDIR

OTHER_DATA = ("data.test", "input.resize", "source")  # what evaluation may be told anew: on which examples


def train(arguments: list[str]) -> int:
    from cnnjax import experiment, launch, processes
    from cnnjax.compilation_cache import use_compilation_cache
    from cnnjax.training import opening
    from cnnjax.training.fit import fit
    from cnnjax.training.initial import require_source

    line = launch.parse(arguments, FLAGS["train"])
    command_line.no_arguments(line)
    config = command_line.required(line, "train")
    place = processes.place_of(*(line.flags[name] for name in ("coordinator", "processes", "process")))
    workdir = Path(line.flags["workdir"] or Path("runs") / line.experiment).expanduser()
    require_source(config, workdir)
    use_compilation_cache()
    with processes.together(place):
        opening.require_same_config(config)
        built = experiment.build(config, opening.known_data(workdir))
        for text in describe(built, workdir) if processes.is_main() else ():
            print(text)
        fit(built, workdir)
    return 0


def evaluate(arguments: list[str]) -> int:
    import jax

    from cnnjax import evaluation, experiment, inference, launch, parallel
    from cnnjax.compilation_cache import use_compilation_cache

    line = launch.parse(arguments, (WORKDIR, SPLIT, WHICH, FORMAT), base=command_line.config_of_run)
    command_line.no_arguments(line)
    command_line.only_changes(line, OTHER_DATA)
    run = inference.load(line.flags["workdir"], line.flags["checkpoint"], line.classes)
    use_compilation_cache()
    dataset = inference.dataset_for(run, line.config)
    name = line.flags["split"] or "test"
    split = inference.split_for(run, dataset, line.config, name)
    devices = line.config.devices
    if "devices" not in line.overrides:  # the run may have been trained on a larger machine
        devices = min(devices, len(jax.devices()))
    layout = parallel.layout(devices, kernels=command_line.kernels(line))
    batch_size = experiment.eval_batch_size(line.config)
    parallel.check_divisible(layout, batch_size, "eval_batch_size")
    eval_step = parallel.compile_eval_step(layout, evaluation.eval_step_of(run.network, run.config.matmul_precision))
    variables = parallel.replicate(layout, run.variables)
    task = run.network.task
    sums, _ = evaluation.evaluate_in_full(eval_step, variables, split, layout, batch_size, task)
    summary = task.summary(sums, run.record.class_names)
    if line.flags["format"] == "json":
        print(json.dumps(summary | dict(step=run.step), indent=2))
    else:
        print(f"{name} of {dataset.name}, with the parameters of step {run.step}:")
        print("\n".join("  " + text for text in task.summary_lines(summary)))
    return 0


def predict(arguments: list[str]) -> int:
    from cnnjax import inference, launch
    from cnnjax.compilation_cache import use_compilation_cache
    from cnnjax.data.folder import list_pictures

    line = launch.parse(arguments, FLAGS["predict"], base=command_line.config_of_run)
    command_line.only_changes(line, ())
    if not line.arguments:
        raise UserError("Say which images: python run.py predict IMAGE|FOLDER ... --workdir=RUN")
    flags, as_json = line.flags, line.flags["format"] == "json"
    if not (flags["top"].isascii() and flags["top"].isdigit()) or int(flags["top"]) < 1:
        raise UserError(f"--top must be a whole number of at least 1, not {flags['top']!r}.")
    paths = list_pictures(map(Path, line.arguments), getattr(line.config.task, "written", ()))
    run = inference.load(flags["workdir"], flags["checkpoint"], line.classes)._replace(config=line.config)
    use_compilation_cache()
    folder = Path(flags["output"] or Path(flags["workdir"]) / "predictions").expanduser()
    writer = line.config.task.build().writer(run.record, line.config, folder, flags)
    failed, rows = 0, []
    for path, said in inference.write_predictions(run, paths, writer, command_line.kernels(line)):
        if isinstance(said, str):
            failed += 1
            print(f"cnnjax: {path} {said}.", file=sys.stderr)
            continue
        rows.append(dict(file=str(path)) | said)
        if not as_json:
            print(f"{path}:  {writer.line(said)}")
    if as_json:
        print(json.dumps(rows, indent=2))
    elif rows and writer.where:
        print(writer.where)
    return 1 if failed else 0


def sweep(arguments: list[str]) -> int:
    from cnnjax import launch
    from cnnjax.sweeps import ablation, driver, report, status
    from cnnjax.sweeps.launcher import launcher_of
    from cnnjax.sweeps.screen import Screen

    line = launch.parse(arguments, FLAGS["sweep"], of_sweep=True)
    command_line.no_arguments(line)
    flags = line.flags
    if not flags["config"]:
        raise UserError("Say which sweep: python run.py sweep --config=experiments/ablations/NAME.py")
    folder = Path(flags["workdir"] or Path("runs") / Path(flags["config"]).stem).expanduser().absolute()
    launcher = None if flags["status"] or flags["table"] else launcher_of(flags, folder)
    chosen = ablation.load(flags["config"])
    trials = ablation.trials(chosen, folder)
    if flags["status"]:
        status.require_same(trials, folder)
        print(
            "\n".join(driver.table(trials, {t.folder: status.status_of(t, chosen.score) for t in trials}, chosen.score))
        )
        return 0
    if flags["table"]:
        print(report.write(chosen, folder), end="")
        return 0
    print(f"{len(trials)} trials, {launcher}, in {folder}", flush=True)
    show = Screen() if sys.stdout.isatty() else None
    found = driver.drive(chosen, folder, launcher, log=lambda text: print(text, flush=True), show=show)
    if any(state.state == status.DONE for state in found.values()):
        print(
            "\n" + report.write(chosen, folder) + f"\nTable and picture: {folder}/results.csv, results.md, results.png"
        )
    driver.require_done(found)
    return 0


def prepare(arguments: list[str]) -> int:
    from cnnjax import launch
    from cnnjax.data import sources

    line = launch.parse(arguments, (FROM,))
    command_line.no_arguments(line)
    config = command_line.required(line, "prepare")
    if not hasattr(config.source, "prepare"):
        raise UserError(f"{sources.name_of(config.source)} needs no preparation.")
    config.source.prepare(line.flags["from"] or "")
    return 0


def config(arguments: list[str]) -> int:
    from cnnjax import launch, serialization

    line = launch.parse(arguments, (WORKDIR,), base=command_line.config_of_run)
    command_line.no_arguments(line)
    command_line.require_file_is_needed(line)
    print(json.dumps(serialization.to_json(command_line.required(line, "config")), indent=2))
    return 0


def inspect(arguments: list[str]) -> int:
    from cnnjax import bare, launch
    from cnnjax.inspection import drawing, findings, layer_table, rendering

    line = launch.parse(arguments, FLAGS["inspect"], base=command_line.config_of_model)
    command_line.no_arguments(line)
    if line.experiment and line.flags["model"]:
        raise UserError("--model is for a network without an experiment: with --config, say --config.model=NAME.")
    for flag in ("layer", "image"):
        if line.flags[flag] and not line.flags["picture"]:
            raise UserError(f"--{flag} is for a picture: say --picture=FILE.png too.")
    cut_gates = line.flags["gates"] == "cut"
    module, shape = bare.network_alone(
        line.config, line.flags["input"] or "", line.flags["classes"] or "", bool(line.experiment)
    )
    image = bare.image_like(shape)
    try:
        table = layer_table.layer_table(module, image, cut_gates=cut_gates, train=False)
    except DoesNotFit as error:
        least = findings.least_size(module, image.shape, train=False)
        takes = f"\nIt takes at least {'x'.join([str(least)] * (len(shape) - 1))}." if least else ""
        raise DoesNotFit(f"{error}{takes}") from None
    found = findings.findings(table, module, image, train=False, training=dict(train=True))
    if not cut_gates:
        found += findings.gates(table, layer_table.layer_table(module, image, cut_gates=True, train=False))
    if line.flags["picture"]:
        flags = line.flags
        said = drawing.draw(flags["picture"], table, module, image, flags["layer"], flags["image"], train=False)
        print(said, file=sys.stderr)
    print(rendering.render(table, found, line.flags["format"]))
    return 0


def benchmark(arguments: list[str]) -> int:
    import jax

    from cnnjax import bare, device_memory, experiment, launch, models, parallel
    from cnnjax import benchmark as measuring

    line = launch.parse(arguments, FLAGS["benchmark"], base=command_line.config_of_model)
    command_line.no_arguments(line)
    config, flags = line.config, line.flags
    if line.experiment and flags["model"]:
        raise UserError("--model is for a network without an experiment: with --config, say --config.model=NAME.")
    if flags["loader"] and not line.experiment:
        raise UserError("--loader times an experiment's own data: say --config=experiments/NAME.py.")
    config.dtype, config.kernels = flags["precision"] or config.dtype, flags["kernels"] or config.kernels
    config.batch_size = (
        bare.positive(flags["batch"] or "32", "--batch", "a whole number")
        if (flags["batch"] or not line.experiment)
        else config.batch_size
    )
    seconds = bare.positive(flags["seconds"], "--seconds", "a whole number")
    if flags["profile"]:
        command_line.make_writable(Path(flags["profile"]), "--profile")
    layout = parallel.layout(config.devices, config.fsdp, config.compile_with, config.deterministic, config.kernels)
    parallel.check_divisible(layout, config.batch_size, "batch_size")
    module, shape = bare.network_alone(config, flags["input"] or "", flags["classes"] or "", bool(line.experiment))
    device = layout.mesh.devices.flat[0]
    what = dict(
        model=models.name_of(config.model),
        input=list(shape),
        batch=config.batch_size,
        precision=config.dtype,
        kernels=layout.kernels,
        devices=layout.size,
        device=device.device_kind,
        jax=jax.__version__,
    )
    if flags["format"] == "text":
        print(
            f"{what['model']} {'x'.join(map(str, shape))}, batch {what['batch']}, {what['precision']}, on {layout.size} {device.device_kind}"
        )
        print(f"kernels  {layout.kernels}: {layout.why_kernels}", flush=True)
    with device_memory.memory_errors():
        found = measuring.measure(
            module, shape, config.batch_size, config.dtype, layout, seconds, flags["profile"] or ""
        )
    if flags["loader"]:
        found["loader_ratios"] = measuring.loader_ratios(experiment.build(config))
    print(json.dumps(what | found, indent=2) if flags["format"] == "json" else "\n".join(measuring.lines(found)))
    return 0


def describe(built, workdir: Path) -> list[str]:
    """What is about to be trained, in a few lines."""
    import jax

    from cnnjax import experiment, models

    shapes = jax.eval_shape(lambda: experiment.initial_variables(built.network, 0))
    parameters = sum(leaf.size for leaf in jax.tree.leaves(shapes["params"]))
    record, config = built.record, built.config
    size = config.input.build().describe(record.image_shape)
    device = built.layout.mesh.devices.flat[0]
    kind = f" ({device.device_kind})" if device.device_kind != device.platform else ""
    return [
        f"data    {record.name}: {', '.join(f'{size:,} {name}' for name, size in record.split_sizes.items())}; "
        f"{len(record.class_names)} classes, {size}",
        f"model   {models.name_of(config.model)}, {parameters:,} parameters, {config.dtype}",
        f"run     {built.total_steps:,} steps of {config.batch_size} on {built.layout.size} {device.platform}{kind}, "
        f"{config.optimizer.name}, in {workdir}",
        f"kernels {built.layout.kernels}: {built.layout.why_kernels}",
        *built.notes,
    ]
