"""Let a pruning go by scores from a file in place of a calibration."""

from __future__ import annotations

from dataclasses import replace

from onnxpfp.counted import counted
from onnxpfp.data.overlap import sample_digests
from onnxpfp.data.sources import SampleSource
from onnxpfp.errors import OptionError, ScoresError
from onnxpfp.options import Options
from onnxpfp.pipeline.context import RunContext
from onnxpfp.pipeline.criteria import criterion_of
from onnxpfp.pipeline.parts import Network, NetworkPart
from onnxpfp.pipeline.scores.file import ScoresFile
from onnxpfp.pipeline.scores.given import GivenScores
from onnxpfp.pipeline.scores.run import digest_of_all, header_of

__all__ = ["at_shapes_of", "of_channels", "require_usable", "with_given_scores"]

IN_FILES = frozenset({"squares", "sensitivity", "weights", "scales", "random"})
"""What criteria may need that is known without data where there is a file of scores."""
_GIVE_DATA = "give --calib-data FILE.npz, too: what the file has is not measured again"


def require_usable(file: ScoresFile, calibration: SampleSource | None, options: Options, *, replaying: bool) -> None:
    """Make sure that a file has what a pruning needs, as far as that can be told before anything is read.

    Raises:
        OptionError: Something that is asked for does not go with it.
        ScoresError: It lacks some of its samples.
    """
    if replaying:
        raise OptionError("--scores goes with no --from-plan, which says what stays without scores")
    if options.keep_classes is not None:
        raise OptionError(
            "--scores is of a network with all of its classes, and --keep-classes leaves another",
            hint="let the classes go first, by prune with --keep-macs 1, then score and prune what that writes",
        )
    if isinstance(calibration, str) and calibration == "random":
        raise OptionError("--scores goes with data of yours, and --calib-data random is noise")
    if file.missing:
        raise ScoresError(
            f"{file.title} lacks shards of its samples: {file.missing}", hint="merge them in: onnxpfp merge"
        )
    if options.ranked:
        raise OptionError(
            "--structure rank measures layers that files of scores do not have, so it goes with no --scores"
        )
    if calibration is not None:
        return
    criterion = criterion_of(options.score)
    if not criterion.needs <= IN_FILES:
        raise OptionError(f"--score {criterion.name} is not in files of scores, and no data are given", hint=_GIVE_DATA)
    if options.steps > 1:
        raise OptionError("--steps measures anew at each, and no data are given", hint=_GIVE_DATA)


def at_shapes_of(file: ScoresFile, options: Options) -> Options:
    """Return the options of a pruning without data: at the shapes of the samples that were scored."""
    return options if options.input_shapes else replace(options, input_shapes=dict(file.header.inputs))


def of_channels(options: Options) -> Options:
    """Return the options of a run by scores: files have nothing of ranks, so `--structure auto` is channels."""
    return replace(options, structure="channels") if options.structure == "auto" else options


def with_given_scores(network: Network, file: ScoresFile) -> Network:
    """Give every part of a network its scores; none where nothing is to be chosen.

    Raises:
        ScoresError: The file is of another network or was measured otherwise, or samples that measure the result have
            been scored.
    """
    context = network.parts[0].context
    if not context.chooses:
        return network
    for mine, theirs in file.header.differences(header_of(context)):
        raise ScoresError(f"{file.title} was scored {mine}, and is to be used {theirs}", hint="score the network anew")
    places = [part.place for part in network.parts]
    if context.data.given == "none" and len(network.parts) > 1:
        raise ScoresError(
            f"{file.title} does not say what the bodies of If, Loop and Scan are fed: {', '.join(places[1:])}",
            hint=_GIVE_DATA,
        )
    if set(places) != set(file.parts):
        raise ScoresError(f"{file.title} is of other bodies of If, Loop and Scan than run here", hint=_GIVE_DATA)
    _require_unseen(context, file)
    parts = [_given(part, file) for part in network.parts]
    for part in parts:
        found = part.context.subnormal.zeroed
        if found != file.parts[part.place].zeroed:
            raise ScoresError(
                f"{file.title} was scored with other subnormal weights taken for zero than here", hint=_GIVE_DATA
            )
    return replace(network, parts=tuple(parts))


def _given(part: NetworkPart, file: ScoresFile) -> NetworkPart:
    """Give a part its scores, and what is known of the samples that they were measured on."""
    data = part.context.data
    independent = data.independent and all(each.independent for each in file.data)
    scores = GivenScores(file.title, file.parts[part.place])
    return replace(part, context=replace(part.context, scores=scores, data=replace(data, independent=independent)))


def _require_unseen(context: RunContext, file: ScoresFile) -> None:
    """Make sure that no held-out sample has been scored.

    Raises:
        ScoresError: Some have.
    """
    data = context.data
    same = [digest_of_all(data.fit)] == [each.digest for each in file.data]
    if data.held_out is None or same:
        return
    known = file.known()
    seen = sum(row.tobytes() in known for row in sample_digests(data.held_out))
    if seen:
        raise ScoresError(
            f"{file.title}: {seen} of the "
            f"{counted(len(data.held_out), 'sample that measures', 'samples that measure')} the result "
            f"{'has' if seen == 1 else 'have'} been scored",
            hint="prune with the data that were scored and the same --seed, --calib-samples and --batch-size, without "
            "--max-drift or --min-agreement, which hold more out; or give --certify-data",
        )
