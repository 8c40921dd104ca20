"""What a person can type: the verbs' flags, and their help."""

from typing import NamedTuple


class Verb(NamedTuple):
    """A verb, what it does, and how it is typed."""

    run: object
    help: str
    usage: str


class Flag(NamedTuple):
    """A flag of a verb that is no knob of the configuration."""

    name: str
    default: str | None
    help: str
    choices: tuple[str, ...] | None = None


def general_help(verbs: dict[str, Verb]) -> str:
    """What a newcomer can type."""
    lines = ["cnnjax trains convolutional neural networks.", "", "python run.py VERB [flags]", ""]
    lines += [f"  {name:9} {verb.help}" for name, verb in verbs.items()]
    lines += ["", "Start with these:", ""]
    lines += [f"  {verb.usage}" for verb in verbs.values()]
    return "\n".join([*lines, "", "python run.py VERB --help shows every knob of VERB."])


def verb_help(name: str, verb: Verb, flags: tuple[Flag, ...]) -> str:
    """The flags of a verb and every knob, with type, range and default; those of a family of models once."""
    from cnnjax import inputs, models, serialization, tasks
    from cnnjax.config import Config
    from cnnjax.data import sources

    lines = [f"python run.py {name}: {verb.help}", "", f"  {verb.usage}", "", "Flags:"]
    lines += ["  --config=FILE.py[:NAME]  the experiment; NAME chooses its variant, or the model"]
    lines += [f"  --{flag.name}={'|'.join(flag.choices) if flag.choices else '...'}  {flag.help}" for flag in flags]
    lines += ["", f"--config.model=NAME chooses the model: {', '.join(serialization.TABLES['model'])}"]
    lines += [f"--config.task=NAME chooses the task: {', '.join(tasks.TASKS)}"]
    lines += [f"--config.input=NAME chooses the kind of input: {', '.join(inputs.INPUTS)}"]
    lines += [f"--config.source=NAME chooses where examples come from: {', '.join(sources.SOURCES)}", ""]
    lines += ["Knobs, with their defaults:", *_knob_lines(Config())]
    for choice, table in dict(task=tasks.TASKS, input=inputs.INPUTS, source=sources.SOURCES).items():
        for name, options in table.items():
            if own := _knob_lines(Config(**{choice: options}), f"{choice}."):
                lines += ["", f"Of the {choice} {name}:", *own]
    families: dict[type, list[str]] = {}
    for model, options in serialization.TABLES["model"].items():
        families.setdefault(type(options), []).append(model)
    for names in families.values():
        lines += ["", f"Of the model{'s' if len(names) > 1 else ''} {', '.join(names)}:"]
        lines += _knob_lines(Config(model=models.options(names[0])), "model.")
    return "\n".join(lines)


def _knob_lines(config, prefix: str = "") -> list[str]:
    from cnnjax import knobs

    lines = []
    for knob in knobs.walk(config):
        if knob.name.startswith(prefix):
            value = ",".join(map(str, knob.value)) if isinstance(knob.value, tuple) else knob.value
            rule = knobs.range_text(knob)
            lines.append(f"  --config.{knob.name}={value}\n      {knob.help}" + (f" ({rule})" if rule else ""))
    return lines


WORKDIR = Flag("workdir", None, "the run directory")
SPLIT = Flag(
    "split",
    None,
    "train, validation or test, as the run had them; or any part, as tfds writes it: train[:10%], train+test",
)
WHICH = Flag(
    "checkpoint", "tested", "which parameters; tested: as config.checkpoint.test says", ("tested", "best", "last")
)
FORMAT = Flag("format", "text", "how to print", ("text", "json"))
TOP = Flag("top", "3", "how many classes to print")
OUTPUT = Flag(
    "output",
    None,
    "the folder for files that the task writes, such as masks; default: predictions in the run directory",
)
FROM = Flag("from", None, "an existing TFRecord preparation to convert")
YES_OR_NO = ("true", "false")
FLAGS = dict(
    benchmark=(
        Flag("model", None, "a network by name, without an experiment"),
        Flag("input", None, "height,width,channels; default: as published, or as the data have it"),
        Flag("classes", None, "how many; default: as the data have it, or 1000"),
        Flag("batch", None, "pictures in a step; default: as the experiment has it, or 32"),
        Flag("precision", None, "of activations and gradients", ("float32", "bfloat16")),
        Flag("kernels", None, "as --config.kernels", ("auto", "xla", "onednn", "portable", "gpu")),
        Flag("loader", "false", "also: a step with the experiment's own data against one resident batch", YES_OR_NO),
        Flag("seconds", "5", "how long steps, and forward passes, are timed"),
        Flag("profile", None, "a folder for a trace of five steps"),
        FORMAT,
    ),
    inspect=(
        Flag("model", None, "a network by name, without an experiment"),
        Flag(
            "input",
            None,
            "height,width,channels (or length,channels; depth,height,width,channels); default: as published, or as the data have it",
        ),
        Flag("classes", None, "how many; default: as the data have it, or 1000"),
        Flag("format", "text", "how to print", ("text", "json", "csv", "markdown")),
        Flag(
            "gates",
            "kept",
            "cut: leave squeeze-and-excite gates, which see the whole picture, out of the field of view",
            ("kept", "cut"),
        ),
        Flag("picture", None, "FILE.png: draws the field of view and the effective one over an image"),
        Flag("layer", None, "whose field of view the picture shows; default: the last with positions"),
        Flag("image", None, "FILE: the image to draw over; default: plain grey"),
    ),
    train=(
        WORKDIR,
        Flag(
            "coordinator",
            None,
            "of several processes, where process 0 waits: HOST:PORT; auto: as a TPU pod says; Slurm needs none",
        ),
        Flag("processes", None, "how many processes are one run"),
        Flag("process", None, "which of them this is, from 0"),
    ),
    sweep=(
        Flag("workdir", None, "the folder of the sweep; default: runs/NAME"),
        Flag("launcher", "local", "where trials run: processes of this machine, or a Slurm array", ("local", "slurm")),
        Flag("parallel", "0", "how many trials at a time; 0: one a GPU, or one; with Slurm as many as it lets"),
        Flag("partition", None, "Slurm's; default: the cluster's"),
        Flag("minutes", None, "Slurm's time limit of a trial, which then saves, is requeued and goes on; default: 60"),
        Flag("gpus", None, "of Slurm, for each trial; default: none asked for"),
        Flag("cpus", None, "cores of Slurm, for each trial; default: the cluster's"),
        Flag("requeues", None, "how often a trial may meet its time limit and go on; default: 100"),
        Flag("status", "false", "only show each trial's state, progress and best score", YES_OR_NO),
        Flag("table", "false", "only write and print the table of what is done", YES_OR_NO),
    ),
    evaluate=(WORKDIR, SPLIT, WHICH, FORMAT),
    predict=(WORKDIR, TOP, WHICH, FORMAT, OUTPUT),
    prepare=(FROM,),
    config=(WORKDIR,),
)
