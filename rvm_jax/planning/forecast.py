"""From what a step needs to what a run takes: seconds by resource, the one that limits, days, cores, and what fits."""

import math
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from rvm_jax.errors import UserError
from rvm_jax.models.architecture import Architecture
from rvm_jax.planning import chips, estimate
from rvm_jax.planning.topology import parse
from rvm_jax.training import hardware

VIDEO = chips.CLIPS_A_CORE['video of GOP 32']
DOUBT = {'gpu': 1.2, 'tpu': 2.0}  # an estimate of memory may be short by this factor: see `estimate.memory`
SCALED_DOUBT = 1.15  # one that is scaled to what the compiler said of a similar config


class Forecast(NamedTuple):
    """One recipe in one place. Bytes are those of one device and, like seconds and FLOPs, of one step."""

    config: ConfigDict
    arch: Architecture
    place: str
    chip: chips.Chip | None  # None: the figures of this kind of device are not known
    device_kind: str
    devices: int
    slices: int  # that the devices come in, see `topology.Topology`
    parts: dict  # bytes of memory by what holds them
    has: float | None  # bytes that there are
    seconds: dict  # at peak rates, by resource: compute, memory, links, input; empty without figures of the device
    collectives: dict  # kind -> count, size, moved of the compiled program; empty for an estimate
    traffic: float
    compile_seconds: float | None  # None: an estimate
    remedies: tuple = ()

    @property
    def needs(self) -> float:
        """Bytes in all."""
        return sum(self.parts.values())

    @property
    def fits(self) -> str:
        """'yes', 'no', or 'maybe': the compiler's word, or the estimate with its doubt."""
        if self.has is None:
            return 'yes'  # compiled for a device whose figures are not known
        doubt = DOUBT[chips.platform(self.chip)] if self.chip and self.compile_seconds is None else 1
        return 'yes' if self.needs * doubt <= self.has else 'maybe' if self.needs <= self.has else 'no'

    def step_seconds(self, utilization: float) -> float:
        """A step at this share of the peak FLOP/s, or what memory and links at their peaks leave of it.

        Input is not in it: it can be bought separately, see `cores`.
        """
        return max(self._limits(utilization).values())

    def limit(self, utilization: float) -> str:
        """What decides `step_seconds`: 'compute', 'memory' or 'links'."""
        limits = self._limits(utilization)
        return max(limits, key=limits.get)

    def _limits(self, utilization):
        seconds = self.seconds
        return {'compute': seconds['compute'] / utilization, 'memory': seconds['memory'], 'links': seconds['links']}

    def days(self, utilization: float) -> float:
        """Days for all steps of the recipe."""
        return self.config.steps * self.step_seconds(utilization) / 86400

    def cores(self, utilization: float) -> dict[str, int]:
        """{form of the data: host cores that keep up with the step}."""
        rate = self.config.batch_size / self.step_seconds(utilization)
        return {form: math.ceil(rate / clips) for form, clips in chips.CLIPS_A_CORE.items()}

    @property
    def host_cores(self) -> int:
        """Cores of all hosts of these devices."""
        chip: Any = self.chip
        return round(self.devices * chip.host_cores / chip.host_chips)


def estimated(config: ConfigDict, arch: Architecture, name: str, devices: int) -> Forecast:
    """The Forecast for so many devices of a kind in `chips.CHIPS`, from shapes alone."""
    chip = chips.find(name)
    slices = chips.slices(chip, devices)
    where = arch, chips.platform(chip), devices, slices
    parts, moved = estimate.memory(config, *where), estimate.traffic(config, *where)
    seconds = _seconds(config, arch, chip, devices, moved, estimate.link_seconds(config, arch, chip, devices))
    place = f'{devices} x {name}'
    forecast = Forecast(
        config,
        arch,
        place,
        chip,
        chip.device_kind,
        devices,
        slices,
        parts,
        chips.available(chip),
        seconds,
        {},
        moved,
        None,
    )
    return forecast._replace(remedies=remedies(forecast))


def compiled(config: ConfigDict, arch: Architecture, topology: str, outcome: dict[str, Any]) -> Forecast:
    """The Forecast from what `aot.compile_step` found."""
    found, place = outcome.get('compiled') or outcome['shortage'], parse(topology)
    chip, devices = chips.of_kind(found['device_kind']), found['devices']
    whole = estimate.memory(config, arch, place.platform, devices, place.slices)
    parts = {part: whole[part] for part in ('weights', 'optimizer')}
    if 'compiled' in outcome:
        parts['activations, gradients, program'] = found['needs'] - sum(parts.values())
        moved, has = found['traffic'], chip and chips.available(chip)
        seconds = _seconds(config, arch, chip, devices, moved, _links(chip, found['collectives'])) if chip else {}
    else:
        parts['activations, gradients, program'] = found['needs']
        moved, has, seconds = 0, found['has'], {}
    forecast = Forecast(
        config, arch, topology, chip, found['device_kind'], devices, place.slices, parts, has, seconds,
        found.get('collectives', {}), moved, found['seconds'],
    )  # fmt: skip
    return forecast._replace(remedies=remedies(forecast))


def remedies(forecast: Forecast) -> tuple:
    """Changes of the config that would make it fit, each with the bytes it would then need; empty if it fits.

    By the estimate, scaled by how far it is from what this forecast needs: recomputing everything, splitting over the
    fewest devices, computing a step in the fewest parts; each alone if that is enough, else together.
    """
    if forecast.fits != 'no':
        return ()
    config, batch = forecast.config, forecast.config.batch_size // forecast.devices
    remat = [('model.remat', 'full')] if config.model.remat != 'full' else []
    most = forecast.devices // forecast.slices
    splits = [2**n for n in range(1, 1 + int(math.log2(most))) if 2**n > config.mesh.fsdp > 0]
    parts = [[('accumulate', n)] for n in range(config.accumulate + 1, batch + 1) if batch % n == 0]
    meshes = [[('mesh.data', -1), ('mesh.fsdp', size)] for size in splits]
    found = [_first(forecast, [remat] if remat else []), _first(forecast, meshes)]
    found.append(_first(forecast, parts))
    if not any(found[:2]) and remat:
        found.append(_first(forecast, [remat + mesh for mesh in meshes]))
    if not any(found):
        largest = meshes[-1] if meshes else []
        found = [_first(forecast, [remat + largest + part for part in parts])]
    return tuple(one for one in found if one)


def _first(forecast, tries):
    """(changes, bytes) of the first that fits by the estimate, or None."""
    platform = chips.platform(forecast.chip) if forecast.chip else 'tpu'
    doubt = DOUBT[platform] if forecast.compile_seconds is None else SCALED_DOUBT
    where = forecast.arch, platform, forecast.devices, forecast.slices
    scale = max(1.0, forecast.needs / sum(estimate.memory(forecast.config, *where).values()))
    for changes in tries:
        changed = forecast.config.copy_and_resolve_references()
        for key, value in changes:
            section, _, name = key.rpartition('.')
            (changed[section] if section else changed)[name] = value
        try:
            needs = scale * sum(estimate.memory(changed, *where).values())
        except UserError:  # a split that does not divide the parameters
            continue
        if needs * doubt <= forecast.has:
            return tuple(change for change in changes if change != ('mesh.data', forecast.config.mesh.data)), needs
    return None


def _links(chip, collectives):
    """Seconds of a compiled program's collectives at the full rates of a chip's links."""
    within, across = (sum(one[name] for one in collectives.values()) for name in ('moved', 'crossing'))
    return within / chip.link_rate + across / chip.network_rate


def _seconds(config, arch, chip, devices, traffic, links):
    flops = sum(estimate.flops_by_part(config, arch).values()) * config.batch_size / devices
    hosts = devices / chip.host_chips
    return {
        'compute': flops / hardware.device_peak(chip, config.model.precision),
        'memory': traffic / chip.memory_rate,
        'links': links,
        'input': config.batch_size / (hosts * chip.host_cores * VIDEO),
    }
