import pytest

from rvm_jax import config as configs
from rvm_jax.conversion.frozen import resolve
from rvm_jax.models import cost
from rvm_jax.planning import hlo
from rvm_jax.planning import program_checks as checks

SPLIT = ['mesh.data=1', 'mesh.fsdp=8', 'batch_size=64']


def planned(config):
    """What functions of a plan take first: a config and its Architecture."""
    return config, resolve(config)[0]


def recipe(name, *overrides):
    return configs.load(f'configs/{name}.py', overrides)


def program(*lines, loop=None):
    """A Program of these instructions and its times; with loop, they are the body of one that runs so often."""
    body = '\n'.join(f'  {line}' for line in lines)
    text = f'HloModule m\n\n%body (x: f32[]) -> f32[] {{\n{body}\n}}\n\n%always (x: f32[]) -> pred[] {{\n'
    text += '  ROOT %yes = pred[] constant(true)\n}\n\nENTRY %main () -> f32[] {\n  %start = f32[] constant(0)\n'
    counted = f'backend_config={{"known_trip_count":{{"n":"{loop or 1}"}}}}'
    text += f'  ROOT %w = f32[] while(%start), condition=%always, body=%body, {counted}\n}}\n'
    parsed = hlo.parse(text)
    return parsed, hlo.runs(parsed)[0]


def cudnn(name, backward=False):
    kind = 'fmhaSoftmaxBackward' if backward else 'fmhaSoftmax'
    return f'%{name} = (bf16[8,257,6,64]{{3,2,1,0}}, u8[0]{{0}}) custom-call(), custom_call_target="__cudnn${kind}"'


def pallas(name, outputs):
    shape = 'bf16[8,257,384]{2,1,0:T(8,128)(2,1)}'
    shape = f'({", ".join([shape] * outputs)})' if outputs > 1 else shape
    return f'%{name} = {shape} custom-call(), custom_call_target="tpu_custom_call"'


def test_calls_of_fused_kernels_are_counted_as_often_as_they_run():
    found = program(cudnn('a'), cudnn('b'), cudnn('c', backward=True), loop=12)
    assert checks.attention_calls(*found) == (24, 12)
    assert checks.attention_calls(*program(pallas('a', 1), pallas('b', 3), loop=5)) == (5, 5)
    assert checks.attention_calls(*program('%x = f32[8]{0} custom-call(), custom_call_target="mine"')) == (0, 0)


@pytest.mark.parametrize(
    ('name', 'platform', 'calls'),
    [
        ('rvm_s', 'gpu', (12 + 12 + 2 * 4 * 4 + 2 * 8,) * 2),  # source, target, core of 4 frames, decoder
        ('rvm_s', 'tpu', (12 + 2 * 4 * 4 + 2 * 8,) * 2),  # 13 visible tokens are too few there
        ('dinov2_rvmrnn', 'gpu', (24 + 2 + 32 + 16, 2 + 32 + 16)),  # the encoder is frozen, targets have their own
        ('tiny', 'gpu', (0, 0)),  # float32
    ],
)
def test_a_step_needs_as_many_calls_as_it_has_attentions(name, platform, calls):
    assert checks.needed_calls(checks.fused_attentions(*planned(recipe(name)), platform)) == calls


def test_attention_that_runs_again_or_is_not_fused_is_found():
    needed = checks.Calls(72, 72)
    assert checks.check_calls(checks.Calls(72, 72), needed) == []
    assert checks.check_calls(checks.Calls(144, 72), needed) == [
        'attention runs again going back: 144 forward calls, 72 are needed'
    ]
    assert 'is not fused everywhere: 60 and 60 calls' in checks.check_calls(checks.Calls(60, 60), needed)[0]
    assert len(checks.check_calls(checks.Calls(72, 60), needed)) == 1


@pytest.mark.parametrize(
    ('shape', 'is_found'),
    [
        ('bf16[8,6,257,257]{3,2,1,0}', True),
        ('(f32[48,257,257]{2,1,0}, f32[8]{0})', True),
        ('bf16[8,6,264,264]{3,2,1,0}', True),  # padded
        ('bf16[8,6,1028,1028]{3,2,1,0}', True),  # targets to sources
        ('bf16[8,6,13,13]{3,2,1,0}', True),  # visible ones
        ('bf16[8,257,6,64]{3,2,1,0}', False),
        ('bf16[8,257,384]{2,1,0}', False),
        ('bf16[128,16,16,64]{3,2,1,0}', False),
        ('bf16[8,6,257,257]{3,2,1,0:T(8,128)(2,1)S(1)}', False),  # beside the core
    ],
)
def test_scores_in_main_memory_are_found(shape, is_found):
    attentions = checks.fused_attentions(*planned(recipe('rvm_s')), 'gpu')
    found = checks.scores_in_memory(*program(f'%scores = {shape} custom-call()'), attentions)
    assert bool(found) == is_found and all('made by scores' in one for one in found)


def test_scores_inside_a_fusion_reach_no_memory():
    text = """HloModule m

%fused (p: bf16[8]) -> bf16[8] {
  %p = bf16[8]{0} parameter(0)
  %scores = f32[8,257,257]{2,1,0} broadcast(%p)
  ROOT %out = bf16[8]{0} reduce(%scores)
}

ENTRY %main (x: bf16[8]) -> bf16[8] {
  %x = bf16[8]{0} parameter(0)
  ROOT %y = bf16[8]{0} fusion(%x), kind=kLoop, calls=%fused
}
"""
    parsed = hlo.parse(text)
    attentions = checks.fused_attentions(*planned(recipe('rvm_s')), 'gpu')
    assert checks.scores_in_memory(parsed, hlo.runs(parsed)[0], attentions) == []


def test_what_is_split_is_told_from_what_is_whole():
    split = checks.split_of(*planned(recipe('rvm_l', *SPLIT)), 8)
    assert split.stacks['encoder/layers/blocks/mlp/dense_in/kernel'] == (24, 1024, 4096)
    assert split.stacks['encoder/layers/blocks/attention/query/kernel'] == (24, 1024, 16, 64)
    assert not any('bias' in name or 'norm' in name for name in split.stacks)
    assert 0 < split.summed < 0.01 * cost.num_bytes(cost.parameters(resolve(recipe('rvm_l'))[0]))  # biases
    alone = checks.split_of(*planned(recipe('rvm_l', 'mesh.data=-1', 'mesh.fsdp=1')), 8)
    assert alone.stacks == {} and alone.summed > 1e9  # every gradient is summed, and whole
    parts = checks.split_of(*planned(recipe('rvm_l', 'mesh.data=2', 'mesh.fsdp=4', 'batch_size=64')), 8)
    assert alone.summed / 5 < parts.summed < alone.summed / 3


@pytest.mark.parametrize(
    ('shape', 'is_found'),
    [
        ('bf16[24,1024,4096]{2,1,0}', True),
        ('f32[24,4096,1024]{2,1,0}', True),
        ('f32[24,1024,16,64]{3,2,1,0}', True),
        ('f32[24,1024,1024]{2,1,0}', True),  # heads beside each other
        ('f32[24,128,4096]{2,1,0}', False),  # an eighth
        ('bf16[1024,4096]{1,0}', False),  # one layer, where it is used
        ('bf16[8,257,1024]{2,1,0}', False),
    ],
)
def test_whole_stacks_are_found_where_parts_are_meant(shape, is_found):
    made = program(f'%big = {shape} fusion()')
    found = checks.whole_weights(*made, checks.split_of(*planned(recipe('rvm_l', *SPLIT)), 8))
    assert bool(found) == is_found and all('made by big' in one for one in found)
    assert checks.whole_weights(*made, checks.split_of(*planned(recipe('rvm_l', 'mesh.fsdp=1')), 8)) == []


def test_gradients_that_are_summed_whole_are_found():
    split = checks.split_of(*planned(recipe('rvm_l', *SPLIT)), 8)
    groups = 'replica_groups=[1,8]<=[8]'
    small = f'%g = f32[{split.summed // 4}]{{0}} all-reduce(%p), {groups}'
    fine = program(f'%p = f32[{split.summed // 4}]{{0}} parameter(0)', small)
    assert checks.whole_gradients(*fine, 8, split) == []
    whole = program(
        '%p = f32[1024,4096]{1,0} parameter(0)', f'%g = f32[1024,4096]{{1,0}} all-reduce(%p), {groups}', loop=24
    )
    assert checks.whole_gradients(*whole, 8, split)[0].startswith('0.40 GB of gradients are summed whole')
    scattered = program(
        '%p = f32[1024,4096]{1,0} parameter(0)', f'%g = f32[128,4096]{{1,0}} reduce-scatter(%p), {groups}'
    )
    assert checks.whole_gradients(*scattered, 8, split) == []


def test_gradients_that_wait_to_be_scattered_are_found():
    split = checks.split_of(*planned(recipe('rvm_l', *SPLIT)), 8)
    more = f'f32[{split.whole // 4 + 9}]{{0}}'

    def made(name):
        return f'%{name} = {more} fusion()'

    def scattered(name):
        return f'%s{name} = (({more}), f32[8]{{0}}) reduce-scatter-start(%b{name}), replica_groups=[1,8]<=[8]'

    def renamed(name):
        return f'%b{name} = {more} bitcast(%{name})'

    one, two = ([step(name) for step in (made, renamed, scattered)] for name in 'xy')
    assert checks.waiting_gradients(*program(*one), split)
    part = [line.replace(more, f'f32[{split.whole // 4 * 2 // 3}]{{0}}') for line in (*one, *two)]
    assert checks.waiting_gradients(*program(*part), split) == []  # each goes as soon as it is there
    made_x, bit_x, scatter_x, *rest = part
    found = checks.waiting_gradients(*program(made_x, *rest[:2], bit_x, scatter_x, rest[2]), split)
    assert 'whole gradients wait to be scattered' in found[0]
    assert checks.waiting_gradients(*program(*one), checks.split_of(*planned(recipe('rvm_s')), 1)) == []


def test_figures_may_grow_by_five_percent():
    assert checks.grown('memory', 10.4, 10.0, 'GiB') == []
    assert checks.grown('memory', 11.0, 10.0, 'GiB') == ['memory 11.00 GiB, 10% above the recorded 10.00']
    assert checks.grown('traffic', 11.0, None, 'GB') == ['traffic 11.00 GB is not recorded yet']
