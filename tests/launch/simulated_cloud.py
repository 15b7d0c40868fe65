"""A simulated Google Cloud: requests for slices and their nodes, with the states and delays that Google documents.

Time is simulated: it moves when somebody sleeps, and by what a call takes. `zones` gives each zone its offers: the n-th
create in a zone takes the n-th offer, the last one again and again. An offer is a dict of what it does differently:

    refuse   create fails with this text, and nothing is there
    lost     create fails, though Google took the request, which is seen `late` seconds later
    after    seconds until the request is granted (None: never); provision: seconds from then until it is ACTIVE
    fail     seconds until it is FAILED; why: with this text
    preempt  seconds from ACTIVE until its nodes are PREEMPTED; the request stays ACTIVE for `gap` seconds more, is
             SUSPENDING for `suspending` seconds, then SUSPENDED. vanish: the nodes are NOT_FOUND instead of PREEMPTED
    health   what its nodes say from `sick` seconds after ACTIVE on
    silent   {host: seconds from ACTIVE on}: from then on the host does not answer; its processes are gone
    refuses  how many times a delete is refused; deleting: seconds that one takes
"""

import contextlib
import os
import shutil
import signal
import threading
import time
from types import SimpleNamespace

USUAL = {
    'refuse': '', 'lost': False, 'late': 0, 'after': 30, 'provision': 60, 'fail': None, 'why': 'no more capacity',
    'preempt': None, 'gap': 60, 'suspending': 60, 'vanish': False, 'health': 'HEALTHY', 'sick': 0, 'silent': {},
    'refuses': 0, 'deleting': 30,
}  # fmt: skip
EPOCH = 1800000000


class Cloud:
    """What Google has, and what will happen; `root` is where the hosts are folders."""

    def __init__(self, root):
        self.root, self.lock = root, threading.RLock()
        self.hosts, self.zones, self.lacks, self.quota = 2, {'a': [{}], 'b': [{}]}, {}, []
        self.requests, self.creates, self.two = {}, {}, []  # by (zone, name); by zone; moments with two slices
        self.now = EPOCH
        self.advance(0)

    def advance(self, seconds):
        """Let time pass; returns the new time."""
        with self.lock:
            self.now += seconds
            new = self.root / 'clock.new'
            new.write_text(str(self.now))
            os.replace(new, self.root / 'clock')
            self.evolve()
            return self.now

    def evolve(self):
        """Remove what is gone, end the processes of hosts that are gone, and note when there are two slices."""
        for (zone, name), request in list(self.requests.items()):
            self._play_signs(request)
            node = self.node(request)
            if node not in ('CREATING', 'READY'):
                self.end_hosts(zone)
            for host in request.offer.silent:
                if self.is_silent(request, host):
                    self.end_host(zone, host)
            if self.state(request) == 'NONE' and self.now > request.created + request.offer.late:
                self.end_hosts(zone)
                shutil.rmtree(self.root / 'hosts' / zone, ignore_errors=True)
                del self.requests[zone, name]
        paid = [key for key, request in self.requests.items() if self.node(request) in ('CREATING', 'READY')]
        if len(paid) > 1:
            self.two.append((self.now, paid))

    def _play_signs(self, request):
        """What a training has played (see host/rvm) becomes an event of its slice, a little later."""
        if self.active_for(request) >= 0:
            if request.preempted is None and len(self.signs('preempt')) == request.count * self.hosts:
                request.preempted = self.now + 60
                self.clear('preempt')
            for host in self.signs('gone'):
                request.offer.silent.setdefault(host, 0)
            self.clear('gone')

    def create(self, name, zone, flags):
        """Take a request; returns it, or the text of a refusal."""
        if (zone, name) in self.requests:
            return f'ALREADY_EXISTS: Resource projects/p/locations/{zone}/queuedResources/{name} already exists'
        offers, number = self.zones[zone], self.creates.get(zone, 0)
        self.creates[zone] = number + 1
        offer = SimpleNamespace(**{**USUAL, **offers[min(number, len(offers) - 1)]})
        offer.silent = dict(offer.silent)
        if offer.refuse:
            return offer.refuse
        preempted = None if offer.preempt is None else self.now + offer.after + offer.provision + offer.preempt
        request = SimpleNamespace(
            name=name, created=self.now, offer=offer, type=flags['--accelerator-type'], preempted=preempted,
            count=int(flags.get('--node-count', 1)), until=int(flags['--valid-until-duration'].rstrip('s')),
            internal='--internal-ips' in flags, deleted=None, refused=0,
        )  # fmt: skip
        self.requests[zone, name] = request
        return request

    def names(self, request):
        """The names of the nodes of a request."""
        return [request.name] if request.count == 1 else [f'{request.name}-{number}' for number in range(request.count)]

    def is_never(self, request):
        offer = request.offer
        return offer.after is None or offer.after > request.until or offer.fail is not None

    def active_for(self, request):
        """Seconds since the request became ACTIVE, negative before."""
        offer = request.offer
        return -1 if self.is_never(request) else self.now - request.created - offer.after - offer.provision

    def state(self, request):
        """The state of the request."""
        age, offer = self.now - request.created, request.offer
        if age < offer.late:
            return 'NONE'
        if request.deleted is not None:
            return 'DELETING' if self.now < request.deleted + offer.deleting else 'NONE'
        if age < 8:
            return 'CREATING' if age < 4 else 'ACCEPTED'
        if self.is_never(request):
            return 'FAILED' if age >= (request.until if offer.fail is None else offer.fail) else 'WAITING_FOR_RESOURCES'
        if age < offer.after + offer.provision:
            return 'WAITING_FOR_RESOURCES' if age < offer.after else 'PROVISIONING'
        gone = -1 if request.preempted is None else self.now - request.preempted
        if gone < offer.gap:
            return 'ACTIVE'
        return 'SUSPENDING' if gone < offer.gap + offer.suspending else 'SUSPENDED'

    def node(self, request):
        """The state of its nodes."""
        state = self.state(request)
        if request.preempted is not None and self.now >= request.preempted:
            return 'NONE' if request.offer.vanish or state != 'ACTIVE' else 'PREEMPTED'
        if state == 'DELETING':
            return 'DELETING' if self.active_for(request) >= 0 else 'NONE'
        return {'PROVISIONING': 'CREATING', 'ACTIVE': 'READY'}.get(state, 'NONE')

    def health(self, request):
        return request.offer.health if self.active_for(request) >= request.offer.sick else 'HEALTHY'

    def made(self, request):
        """When the nodes were made, as Google writes it."""
        return time.strftime('%Y-%m-%dT%H:%M:%S.123456789Z', time.gmtime(request.created + (request.offer.after or 0)))

    def is_silent(self, request, host):
        since = request.offer.silent.get(host)
        return bool(self.signs('unreachable')) or (since is not None and self.active_for(request) >= since)

    def home(self, zone, host):
        folder = self.root / 'hosts' / zone / host
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def end_hosts(self, zone):
        for home in (self.root / 'hosts' / zone).glob('*'):
            self.end_host(zone, home.name)

    def end_host(self, zone, host):
        state = self.root / 'hosts' / zone / host / 'rvm_jax/run'
        with contextlib.suppress(OSError, ValueError):
            if not (state / 'exit').exists():
                os.killpg(int((state / 'pid').read_text()), signal.SIGKILL)

    def signs(self, word):
        """For which hosts there is this sign."""
        return sorted(path.name.partition('.')[2] for path in (self.root / 'signs').glob(f'{word}.*'))

    def clear(self, word):
        for path in (self.root / 'signs').glob(f'{word}.*'):
            path.unlink(missing_ok=True)

    def spend(self, word):
        """Whether there is a sign of this kind; it is used up."""
        with self.lock:
            for path in (self.root / 'signs').glob(f'{word}.*'):
                path.unlink(missing_ok=True)
                return True
        return False
