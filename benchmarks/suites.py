"""The suites of benchmarks/learning.py: runs that differ in one thing, and the images that judge them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from depth_ros.types import InputError
from training.config import DataConfig
from training.data.recording import Target
from training.data.sources import open_source
from training.data.street import StreetConfig, kitti_camera
from training.data.street.samples import StreetSamples, StreetTruth
from training.data.truth import EvaluationSet, open_evaluation_set
from training.judging.protocols import PROTOCOLS, Protocol

PLAIN = (  # the low-texture system without what is its own
    "method.name=monodepth2", "method.smoothness_order=first", "network.decoder=monodepth2",
    "network.last_relu_only=false", "network.pooled_shortcut=false",
)  # fmt: skip

STEREO = ("data.stereo=true", "data.offsets=[[]]")
SMOOTHER = "method.smoothness_order=both"
MULTI_SCALE = ("method.name=low_texture", "feature.levels=[0, 1, 2]", "feature.weight=1", "feature.detach=true")
LITE_MONO = ("network.encoder=lite_mono_8m", "network.pretrained=none")
FEATURE_NET = ("method.name=feature_net", "data.street_views=[]")  # FeatDepth's auto-encoder by itself


@dataclass(frozen=True)
class Exam:
    """Images that judge the runs of a suite, and how."""

    open: Callable[[Path], EvaluationSet]  # folder of the real data -> the images
    protocol: Protocol = PROTOCOLS["kitti2015"]


@dataclass(frozen=True)
class Suite:
    """Runs that differ in what they learn from, and nothing else."""

    config: str  # YAML that all share
    runs: Mapping[str, tuple[str, ...]]  # name -> overrides; {folder} is the suite's, {seed} the run's own
    exams: tuple[Exam, ...]
    first: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # runs that others start from, in {folder}/<name>_{seed}
    then: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # runs that start from others
    unjudged: frozenset[str] = frozenset()  # those that predict no depth
    judged: str = "best.ckpt"  # by validation loss; last.ckpt where runs minimise different losses

    @property
    def all_runs(self) -> dict[str, tuple[str, ...]]:
        """In the order in which they can be trained."""
        return {**self.first, **self.runs, **self.then}

    def only(self, rows: Sequence[str]) -> Suite:
        """The suite with these of its runs (all, if there are none), which must include those that they start from.

        Raises InputError for a run that the suite does not have.
        """
        unknown = [row for row in rows if row not in self.all_runs]
        if unknown:
            raise InputError(f"the suite has no run '{unknown[0]}'; it has {', '.join(self.all_runs)}")
        if not rows:
            return self
        stages = {stage: {n: c for n, c in getattr(self, stage).items() if n in rows} for stage in ("first", "runs", "then")}
        return replace(self, **stages)


def only(*entries: str) -> str:
    """A mix of these datasets: entries of data.mix in YAML, with braces that str.format() leaves alone."""
    return f"data.mix=[{', '.join(f'{{{{{entry}}}}}' for entry in entries)}]"


def without_one(*entries: str) -> tuple[str, ...]:
    """The suite's mix without one of its three datasets; two cannot share batches of 9 equally."""
    return (only(*entries), "optim.batch_size=8")


def relative(loss: str, gradient: float = 0.5) -> tuple[str, ...]:
    """A loss of relative depth, with so much of the gradient term."""
    return (f"midas.loss={loss}", f"midas.gradient={gradient}")


def taught(*changes: str, by: str = "teacher") -> tuple[str, ...]:
    """A diffusion student of another run of its suite and seed."""
    return (f"method.teachers=[{{folder}}/{by}_{{seed}}/last.ckpt]", *changes)


def trained_on(*changes: str) -> tuple[str, ...]:
    """The teacher of the suite and seed, trained on for as long as a student."""
    return ("method.name=monodepth2", "run.init={folder}/teacher_{seed}/last.ckpt", *changes)


def unseen_worlds(name: str, each: int, scenes: Sequence[str], plain: float = StreetConfig.plain) -> EvaluationSet:
    """`each` views per scene at 192x64, with the textures that training does not show; a share `plain` has none."""
    targets: list[Target] = []
    for scene in scenes:
        world = StreetConfig(scene=scene, textures="test", plain=plain)
        truth = StreetTruth(StreetSamples(kitti_camera(192, 64), each, seed=900, config=world), scene)
        targets += [Target(truth, index) for index in range(len(truth))]
    return EvaluationSet(name, tuple(targets))


def kitchen_frames(data: Path) -> EvaluationSet:
    """Frames of 7-Scenes' kitchen that the suite `midas` does not train on: the same room, later."""
    config = DataConfig(root=str(data), source="folder", path="sevenscenes_redkitchen", val_frames=(164, 220))
    return EvaluationSet("kitchen", tuple(open_source(config, "val")))


def unseen_plain_worlds(data: Path) -> EvaluationSet:
    """Streets, rooms and grounds, half of them without texture; needs no data."""
    return unseen_worlds("unseen plain worlds", 32, ("street", "room", "ground"), plain=0.5)


UNSEEN_STREETS = Exam(lambda data: unseen_worlds("unseen streets", 96, ("street",)))
MIDAS, INDOORS = PROTOCOLS["midas"], PROTOCOLS["midas"].capped(10.0)
PARETO = "optim.mixing=pareto"
WORLDS = "name: worlds, kind: depth, source: street, street_samples: 300, street_scenes: [[street, 0.5], [room, 0.5]]"
KITCHEN = (
    "name: kitchen, kind: depth, source: folder, path: sevenscenes_redkitchen, train_frames: [0, 148], val_frames: [148, 160]"
)
MOVIE = "name: movie, kind: movie, source: folder, path: kitti_odom06_stereo_grey, train_frames: [0, 45], val_frames: [45, 51]"
KITTI_STEREO = Exam(lambda data: open_evaluation_set(data / "kitti2015_stereo"))

SUITES: dict[str, Suite] = {
    "streets": Suite(
        "benchmarks/learning_streets.yaml",
        {
            "supervised": ("method.name=supervised",),
            "stereo": ("data.street_views=[right]",),
            "mono, known poses": ("data.street_views=[before, after]",),
            "mono, learned poses": (
                "data.street_views=[before, after]",
                "data.known_poses=false",
                "method.normalise_disparity=true",
            ),
        },
        (UNSEEN_STREETS,),
    ),
    "kitti": Suite(
        "benchmarks/learning_kitti.yaml",
        {
            "M, learned poses": ("data.known_poses=false", "method.normalise_disparity=true"),
            "M, known poses": (),
            "S": STEREO,
            "MS, learned poses": ("data.stereo=true", "data.known_poses=false"),
            "MS, known poses": ("data.stereo=true",),
        },
        (KITTI_STEREO,),
    ),
    "kitti_features": Suite(
        "benchmarks/learning_kitti.yaml",
        {
            "S, photometric": (*STEREO, SMOOTHER),
            "S, FeatDepth": (*STEREO, SMOOTHER, "method.name=featdepth"),
            "S, low-texture loss": (*STEREO, SMOOTHER, *MULTI_SCALE),
            "M, photometric": (SMOOTHER,),
            "M, FeatDepth": (SMOOTHER, "method.name=featdepth"),
            "M, low-texture loss": (SMOOTHER, *MULTI_SCALE),
            "MS, photometric": ("data.stereo=true", SMOOTHER),
            "MS, FeatDepth": ("data.stereo=true", SMOOTHER, "method.name=featdepth"),
            "MS, low-texture loss": ("data.stereo=true", SMOOTHER, *MULTI_SCALE),
        },
        (KITTI_STEREO,),
    ),
    "featdepth": Suite(
        "benchmarks/learning_featdepth.yaml",
        {
            "photometric alone": ("method.name=monodepth2",),
            "+ features, L_rec": ("feature.discriminative=0", "feature.convergent=0"),
            "+ L_dis": ("feature.convergent=0",),
            "+ L_cvt": ("feature.discriminative=0",),
            "+ both (FeatDepth)": (),
            "the same, frozen": ("feature.checkpoint={folder}/feature_net_{seed}/last.ckpt",),
            "the same, three levels": ("feature.levels=[0, 1, 2]",),
            "the same, weight .1": ("feature.weight=0.1",),
        },
        (Exam(unseen_plain_worlds),),
        first={
            "feature_net": FEATURE_NET,
            "feature_net L_rec": (*FEATURE_NET, "feature.discriminative=0", "feature.convergent=0"),  # for landscape.py
        },
        unjudged=frozenset({"feature_net", "feature_net L_rec"}),
        judged="last.ckpt",
    ),
    "low_texture": Suite(
        "benchmarks/learning_low_texture.yaml",
        {
            "baseline": PLAIN,
            "ReLU in last blocks": (*PLAIN, "network.last_relu_only=true"),
            "max-pool shortcut": (*PLAIN, "network.pooled_shortcut=true"),
            "nested skips": (*PLAIN, "network.decoder=nested"),
            "smoothness, second": (*PLAIN, "method.smoothness_order=second"),
            "smoothness, both": (*PLAIN, "method.smoothness_order=both"),
            "features, one scale": (*PLAIN, "method.name=low_texture", "feature.levels=[0]"),
            "features, three": (*PLAIN, "method.name=low_texture"),
            "all together": (),
        },
        (Exam(unseen_plain_worlds),),
        judged="last.ckpt",
    ),
    "monodiffusion": Suite(
        "benchmarks/learning_monodiffusion.yaml",
        {
            "teacher, longer": trained_on(),
            "teacher, Log": trained_on("method.sigma=log"),
            "teacher, Drop": trained_on("method.sigma=dropout"),
            "teacher, Snap": trained_on("optim.schedule=cyclic", "run.cycles=3"),
            "teacher, Self": (*trained_on(), "method.name=self_teaching", *taught()),
            "student": taught(),
            "no coarse to fine": taught("diffusion.steps=[3]", "diffusion.train_steps=[150]"),
            "no masked pass": taught("diffusion.masked=0"),
            "no masked pass, twice": taught("diffusion.masked=0", "run.max_steps=300"),  # as many steps of the optimiser
            "masked in blocks": taught("diffusion.mask_block=4"),
            "no distillation": taught("diffusion.distillation=0"),
            "no filter": taught("diffusion.filter=none"),
            "strict filter": taught("diffusion.filter=strict"),
            "one denoiser": taught("diffusion.shared_denoiser=true"),
            "fresh noise": taught("diffusion.fresh_noise=true"),
            "no cue": taught("diffusion.geometric_cue=false"),
            "no diffusion": taught("diffusion.prediction=direct", "method.sigma=flip"),
            "ends in noise": taught("diffusion.prediction=v", "diffusion.spacing=trailing", "diffusion.zero_terminal=true"),
            "centred logits": taught("diffusion.centre=-2.5"),
            "of a larger teacher": taught(by="larger_teacher"),
            "of a Lite-Mono teacher": taught(by="Lite_Mono_teacher"),
        },
        (UNSEEN_STREETS,),
        first={
            "teacher": ("method.name=monodepth2", "run.max_steps=400"),
            "larger teacher": ("method.name=monodepth2", "run.max_steps=400", "network.decoder=monodepth2"),
            "Lite-Mono teacher": ("method.name=monodepth2", "run.max_steps=400", *LITE_MONO),
        },
        then={
            "few steps": taught(
                "diffusion.steps=[1, 1, 1]",
                "diffusion.spacing=trailing",
                "method.sigma=samples",
                "run.init={folder}/student_{seed}/last.ckpt",
                by="student",
            ),
        },
        judged="last.ckpt",
    ),
    "monodiffusion_kitti": Suite(
        "benchmarks/learning_monodiffusion_kitti.yaml",
        {
            "teacher, longer": trained_on(),
            "student": taught(),
            "no masked pass": taught("diffusion.masked=0"),
            "no diffusion": taught("diffusion.prediction=direct", "method.sigma=flip"),
        },
        (KITTI_STEREO,),
        first={"teacher": ("method.name=monodepth2", "run.max_steps=400")},
        judged="last.ckpt",
    ),
    "midas": Suite(
        "benchmarks/learning_midas.yaml",
        {
            "ssitrim + gradients, equal": (),
            "ssitrim": relative("ssitrim", gradient=0.0),
            "ssimae + gradients": relative("ssimae"),
            "ssimse + gradients": relative("ssimse"),
            "simse + gradients": relative("simse"),
            "silog + gradients": relative("silog"),
            "ordinal": relative("ordinal", gradient=0.0),
            "nmg + gradients": relative("nmg"),
            "proportional": ("data.mixing=proportional",),
            "Pareto": (PARETO,),
            "worlds alone": (only(WORLDS),),
            "kitchen alone": (only(KITCHEN),),
            "movie alone": (only(MOVIE),),
            "without the kitchen": without_one(WORLDS, MOVIE),
            "without the kitchen, Pareto": (*without_one(WORLDS, MOVIE), PARETO),
            "without the worlds": without_one(KITCHEN, MOVIE),
            "without the worlds, Pareto": (*without_one(KITCHEN, MOVIE), PARETO),
            "without the movie": without_one(WORLDS, KITCHEN),
            "without the movie, Pareto": (*without_one(WORLDS, KITCHEN), PARETO),
        },
        (
            Exam(lambda data: open_evaluation_set(data / "kitti2015_stereo"), MIDAS),
            Exam(kitchen_frames, INDOORS),
            Exam(lambda data: unseen_worlds("unseen streets", 32, ("street",)), MIDAS),
            Exam(lambda data: unseen_worlds("unseen rooms", 32, ("room",)), INDOORS),
        ),
        judged="last.ckpt",
    ),
}
