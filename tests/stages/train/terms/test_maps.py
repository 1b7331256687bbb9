"""Terms between maps: which maps and masks reach the loss, on which grid, and what is trained.

Student: logits of 3 classes at stride 4, "penultimate" of 6 channels at 4, "stage4" of 5 at 8.
Teacher "fpn": logits, "penultimate" of 6 channels, "stage4" of 9.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from student_output import student_output

from stillroom.stages.train.batch import Batch
from stillroom.stages.train.losses.attention_transfer import attention_transfer
from stillroom.stages.train.losses.channelwise_kl import channelwise_kl
from stillroom.stages.train.losses.fitnet import fitnet
from stillroom.stages.train.losses.ifvd import ifvd
from stillroom.stages.train.losses.local_affinity import local_affinity
from stillroom.stages.train.losses.pairwise_affinity import AffinityGraph, pairwise_affinity
from stillroom.stages.train.losses.table import TermConfig
from stillroom.stages.train.objective import Objective
from stillroom.stages.train.terms.term import Sizes
from stillroom.storage_specs.errors import ArtifactError, ConfigError

SIZE, FINE, COARSE = (24, 30), (6, 8), (3, 4)  # 30 is a multiple of neither stride
STRIDES = {"logits": 4, "features/penultimate": 4, "features/stage4": 8}
SIZES = Sizes(
    classes=3,
    student={"logits": 3, "features/penultimate": 6, "features/stage4": 5},
    strides=STRIDES,
    teachers={"fpn/logits": 3, "fpn/features/penultimate": 6, "fpn/features/stage4": 9},
)
TERMS = TypeAdapter(tuple[TermConfig, ...])
NAMES = [
    "attention_transfer",
    "channelwise_kl",
    "fitnet",
    "ifvd",
    "local_affinity",
    "pairwise_affinity",
]
PROJECTED = ["channelwise_kl", "fitnet"]


@dataclass
class Student:
    strides: dict[str, int] = field(default_factory=lambda: STRIDES)


def objective(**section):
    found = Objective(TERMS.validate_python(({"teacher": "fpn", **section},)))
    torch.manual_seed(4)
    found.prepare(SIZES)
    return found


def value(output, batch, **section):
    (found,) = objective(**section).values(output, batch, Student()).values()
    return found


def normal(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def output():
    return student_output(
        (2 * normal(2, 3, *FINE, seed=0)).requires_grad_(),
        {
            "penultimate": normal(2, 6, *FINE, seed=1).requires_grad_(),
            "stage4": normal(2, 5, *COARSE, seed=2).requires_grad_(),
        },
    )


@pytest.fixture
def labelled():
    generator = torch.Generator().manual_seed(3)
    labels = torch.randint(0, 3, (2, *SIZE), generator=generator)
    labels[:, :, :9] = 255
    return Batch(
        stream="camvid",
        labelled=True,
        images=torch.zeros(2, 3, *SIZE),
        labels=labels,
        mask=torch.rand(2, 1, *FINE, generator=generator) < 0.7,
        artifacts={
            "fpn/logits": 3 * normal(2, 3, *FINE, seed=4),
            "fpn/features/penultimate": normal(2, 6, *FINE, seed=5),
            "fpn/features/stage4@8": normal(2, 9, *COARSE, seed=6),
            "fpn/features/penultimate@8": normal(2, 6, *COARSE, seed=7),
            "fpn/pseudo_label": torch.randint(0, 3, (2, *SIZE), generator=generator),
        },
        masks={8: torch.rand(2, 1, *COARSE, generator=generator) < 0.7},
        frame_ids=["a", "b"],
    )


@pytest.fixture
def unlabelled(labelled):
    return replace(labelled, stream="coco", labelled=False, labels=None)


def under_centres(labels, stride, mask):
    """The label of the pixel under each cell's centre, cell by cell."""
    cells = torch.full((labels.shape[0], *mask.shape[2:]), 255)
    for b, y, x in torch.cartesian_prod(*(torch.arange(n) for n in cells.shape)):
        row, column = y * stride + stride // 2, x * stride + stride // 2
        if mask[b, 0, y, x] and row < labels.shape[1] and column < labels.shape[2]:
            cells[b, y, x] = labels[b, row, column]
    return cells


# what is compared


@pytest.mark.parametrize(
    ("section", "loss"),
    [
        ({"name": "attention_transfer"}, attention_transfer),
        (
            {"name": "attention_transfer", "power": 3},
            lambda s, t, mask: attention_transfer(s, t, power=3, mask=mask),
        ),
        ({"name": "channelwise_kl"}, channelwise_kl),
        (
            {"name": "channelwise_kl", "temperature": 2.0, "variant": "bhattacharyya"},
            lambda s, t, mask: channelwise_kl(
                s, t, temperature=2, variant="bhattacharyya", mask=mask
            ),
        ),
        ({"name": "fitnet"}, fitnet),
        ({"name": "local_affinity"}, local_affinity),
        ({"name": "pairwise_affinity"}, pairwise_affinity),
        (
            {"name": "pairwise_affinity", "patch": 3, "reach": 1, "pool": "max"},
            lambda s, t, mask: pairwise_affinity(
                s, t, graphs=[AffinityGraph(3, 1, "max")], mask=mask
            ),
        ),
    ],
    ids=lambda part: "-".join(map(str, part.values())) if isinstance(part, dict) else "",
)
@pytest.mark.parametrize("on", ["features", "logits"])
def test_options_maps_and_mask_of_the_grid_reach_the_loss(output, labelled, section, loss, on):
    found = value(output, labelled, **section, on=on)
    student = output.logits if on == "logits" else output.features["penultimate"]
    teacher = labelled.artifacts["fpn/logits" if on == "logits" else "fpn/features/penultimate"]
    assert found.item() > 0
    assert found.equal(loss(student, teacher, mask=labelled.mask))


@pytest.mark.parametrize("name", ["attention_transfer", "local_affinity", "pairwise_affinity"])
def test_layers_of_other_grids_and_channels_are_compared_on_the_students(output, labelled, name):
    found = value(output, labelled, name=name, layer="stage4", teacher_layer="penultimate")
    loss = {"attention_transfer": attention_transfer, "local_affinity": local_affinity}.get(
        name, pairwise_affinity
    )
    teacher = labelled.artifacts["fpn/features/penultimate@8"]
    assert found.equal(loss(output.features["stage4"], teacher, mask=labelled.masks[8]))


def test_channelwise_kl_compares_logits_and_the_others_features_unless_told_otherwise():
    for name in NAMES:
        grid = "logits" if name == "channelwise_kl" else "features/penultimate"
        artifact = f"fpn/{grid}"
        assert objective(name=name).terms[0].grid == grid
        assert artifact in objective(name=name).artifacts(labelled=True)


@pytest.mark.parametrize("on", ["features", "logits"])
def test_ifvd_goes_by_labels_and_by_pseudo_labels_where_there_are_none(
    output, labelled, unlabelled, on
):
    student = output.logits if on == "logits" else output.features["penultimate"]
    teacher = labelled.artifacts["fpn/logits" if on == "logits" else "fpn/features/penultimate"]
    for batch, label_map in (
        (labelled, labelled.labels),
        (unlabelled, labelled.artifacts["fpn/pseudo_label"]),
    ):
        labels = under_centres(label_map, 4, labelled.mask)
        expected = ifvd(student, teacher, labels, classes=3, mask=labelled.mask)
        assert value(output, batch, name="ifvd", on=on).equal(expected)
        assert expected > 0


def test_ifvd_takes_labels_of_the_layers_own_grid(output, labelled):
    found = value(output, labelled, name="ifvd", layer="stage4", teacher_layer="stage4")
    labels = under_centres(labelled.labels, 8, labelled.masks[8])
    teacher = labelled.artifacts["fpn/features/stage4@8"]
    expected = ifvd(output.features["stage4"], teacher, labels, classes=3, mask=labelled.masks[8])
    assert found.equal(expected)


def test_ifvd_without_pseudo_labels_leaves_unlabelled_streams_out():
    term = objective(name="ifvd", pseudo_labels=False)
    assert term.artifacts(labelled=False) == frozenset()
    assert term.artifacts(labelled=True) == {"fpn/features/penultimate"}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("layer", ["penultimate", "stage4"])
def test_a_term_reads_what_it_asked_for_and_nothing_else(output, labelled, unlabelled, name, layer):
    section = {"name": name, "layer": layer, "teacher_layer": layer, "on": "features"}
    for batch in (labelled, unlabelled):
        asked = objective(**section).needs(batch.labelled, STRIDES)
        features = f"fpn/features/{layer}" + ("@8" if layer == "stage4" else "")
        pseudo = {"fpn/pseudo_label"} if name == "ifvd" and not batch.labelled else set()
        assert asked == {features} | pseudo
        least = replace(batch, artifacts={key: batch.artifacts[key] for key in asked})
        assert value(output, least, **section).equal(value(output, batch, **section))


@pytest.mark.parametrize("name", NAMES)
def test_only_logits_are_wanted_whole(name):
    assert objective(name=name, on="logits").terms[0].whole_logits()
    assert not objective(name=name, on="features").terms[0].whole_logits()


@pytest.mark.parametrize("name", NAMES)
def test_a_wholly_masked_batch_costs_nothing_and_can_be_differentiated(output, labelled, name):
    labelled.mask = torch.zeros_like(labelled.mask)
    found = value(output, labelled, name=name, on="features")
    found.backward()
    assert found.item() == 0
    assert output.features["penultimate"].grad.eq(0).all()


# what is trained


@pytest.mark.parametrize("name", PROJECTED)
def test_maps_of_other_channels_go_through_a_projector_that_is_trained(output, labelled, name):
    section = {"name": name, "on": "features", "layer": "stage4", "teacher_layer": "stage4"}
    term = objective(**section)
    (weight, *bias) = term.trained()
    assert weight.shape == (9, 5, 1, 1)
    assert [part.shape for part in bias] == ([(9,)] if name == "fitnet" else [])
    (found,) = term.values(output, labelled, Student()).values()
    student = torch.nn.functional.conv2d(output.features["stage4"], weight, *bias)
    loss = {"channelwise_kl": channelwise_kl, "fitnet": fitnet}[name]
    teacher = labelled.artifacts["fpn/features/stage4@8"]
    assert found.equal(loss(student, teacher, mask=labelled.masks[8]))
    found.backward()
    assert weight.grad.abs().sum() > 0
    assert output.features["stage4"].grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("variant", "biased"),
    [
        ("kl", False),
        ("bhattacharyya", False),
        ("l2", False),
        ("l2_unnormalised", True),
        ("pixel_kl", True),
    ],
)
def test_a_projector_has_a_bias_where_it_could_change_something(variant, biased, output, labelled):
    layers = {"layer": "stage4", "teacher_layer": "stage4"}
    term = objective(name="channelwise_kl", on="features", variant=variant, **layers)
    assert (len(term.trained()) == 2) is biased
    (found,) = term.values(output, labelled, Student()).values()
    found.backward()
    assert all(part.grad.abs().max() > 1e-6 for part in term.trained())


@pytest.mark.parametrize("name", PROJECTED)
def test_maps_of_as_many_channels_are_projected_only_where_that_is_asked_for(name):
    assert objective(name=name, on="features").trained() == []
    trained = objective(name=name, on="features", always_project=True).trained()
    assert trained[0].shape == (6, 6, 1, 1)


def test_terms_of_relations_train_nothing(output, labelled):
    for name in sorted(set(NAMES) - set(PROJECTED)):
        layers = {"layer": "stage4", "teacher_layer": "stage4"}
        term = objective(name=name, **layers)
        assert term.trained() == []
        assert value(output, labelled, name=name, **layers) > 0


def test_a_projector_goes_into_a_checkpoint_and_comes_back(output, labelled):
    section = {"name": "fitnet", "layer": "stage4", "teacher_layer": "stage4"}
    one, other = objective(**section), objective(**section)
    other.prepare(SIZES)  # other weights: the generator has gone on
    values = [each.values(output, labelled, Student())["fitnet/fpn"] for each in (one, other)]
    assert not values[0].equal(values[1])
    other.states.load_state_dict(one.states.state_dict())
    assert other.values(output, labelled, Student())["fitnet/fpn"].equal(values[0])


def test_a_student_and_its_projector_learn_the_teachers_features(make_student):
    student, teacher = make_student(), normal(2, 5, 4, 4, seed=8)
    sizes = Sizes(4, student.channels, student.strides, {"fpn/features/penultimate": 5})
    term = Objective(TERMS.validate_python(({"name": "fitnet", "teacher": "fpn"},)))
    term.prepare(sizes)
    batch = Batch(
        stream="camvid",
        labelled=False,
        images=255 * torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1)),
        labels=None,
        mask=torch.ones(2, 1, 4, 4, dtype=torch.bool),
        artifacts={"fpn/features/penultimate": teacher},
    )
    parameters = [*student.parameters(), *term.trained()]
    optimiser = torch.optim.Adam(parameters, lr=0.02)
    losses = []
    for _ in range(60):
        loss, _ = term(student(batch.images), batch, student)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.4 * losses[0]
    assert not any("projector" in name for name in student.state_dict())


def test_features_of_half_precision_are_compared_in_float32(output, labelled):
    half = student_output(
        output.logits.half(), {name: part.half() for name, part in output.features.items()}
    )
    for name in NAMES:
        section = {"name": name, "on": "features", "layer": "stage4", "teacher_layer": "stage4"}
        found = value(half, labelled, **section)
        assert found.dtype == torch.float32
        rounded = student_output(
            half.logits.float(), {k: v.float() for k, v in half.features.items()}
        )
        assert found.equal(value(rounded, labelled, **section))


# graphs of a frame


@pytest.mark.parametrize(
    ("section", "graphs"),
    [
        ({}, [(2, None)]),
        ({"patch": 4}, [(4, None)]),
        ({"patch": [2, 4, 8]}, [(2, None), (4, None), (8, None)]),
        ({"reach": [16, 8, 4]}, [(2, 16), (2, 8), (2, 4)]),
        ({"patch": [1, 2], "reach": 3}, [(1, 3), (2, 3)]),
        ({"patch": [1, 2], "reach": [5, 3]}, [(1, 5), (2, 3)]),
    ],
)
def test_lists_of_patches_and_reaches_make_graphs(section, graphs):
    (term,) = objective(name="pairwise_affinity", **section).terms
    assert [(graph.patch, graph.reach) for graph in term.graphs] == graphs


# what is refused


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"name": "fitnet", "on": "logits", "layer": "stage4"}, "layer would not be looked at"),
        ({"name": "channelwise_kl", "teacher_layer": "x"}, "teacher_layer would not be looked at"),
        ({"name": "channelwise_kl", "temperature": 0}, "greater than 0"),
        ({"name": "channelwise_kl", "variant": "l1"}, "'kl', 'bhattacharyya'"),
        (
            {"name": "channelwise_kl", "variant": "l2_unnormalised", "temperature": 4},
            "l2_unnormalised has no temperature",
        ),
        ({"name": "attention_transfer", "power": 0.5}, "greater than or equal to 1"),
        ({"name": "pairwise_affinity", "patch": 0}, "greater than 0"),
        ({"name": "pairwise_affinity", "reach": 0}, "greater than 0"),
        ({"name": "pairwise_affinity", "patch": []}, "lists of one and more"),
        (
            {"name": "pairwise_affinity", "patch": [2, 4], "reach": [1, 2, 3]},
            "lists of one length, got 2 and 3",
        ),
        ({"name": "pairwise_affinity", "pool": "median"}, "'average' or 'max'"),
        ({"name": "fitnet", "temperature": 4}, "Extra inputs"),
        ({"name": "ifvd", "weight": 0}, "greater than 0"),
    ],
)
def test_options_that_cannot_be_are_refused(section, message):
    with pytest.raises(ValidationError, match=message):
        objective(**section)


@pytest.mark.parametrize("name", NAMES)
def test_a_term_without_a_teacher_is_refused(name):
    with pytest.raises(ConfigError, match=f"term {name} compares with a teacher and names none"):
        objective(name=name, teacher=None).artifacts(labelled=True)


@pytest.mark.parametrize("name", PROJECTED)
def test_a_layer_that_a_network_does_not_have_is_named(name):
    with pytest.raises(ConfigError, match=r"features/stage9.*has logits, features/penultimate"):
        objective(name=name, on="features", layer="stage9")
    with pytest.raises(ConfigError, match=r"fpn/features/stage9.*cache\.artifacts"):
        objective(name=name, on="features", teacher_layer="stage9")


@pytest.mark.parametrize("name", NAMES)
def test_a_map_of_another_size_is_refused_naming_term_and_stream(output, labelled, name):
    labelled.artifacts["fpn/features/penultimate"] = torch.zeros(2, 6, 5, 5)
    with pytest.raises(ArtifactError, match=rf"term {name}/fpn on stream camvid: .*\(2, 6, 5, 5\)"):
        value(output, labelled, name=name, on="features")
