"""Stand-in for gcloud: the commands, answered by a simulated cloud (simulated_cloud.py) whose hosts are folders.

It refuses what the real one refuses: flags that it does not have, names that are not there, hosts of nodes that are not
READY. Like the real one, ssh asks all hosts at once, mixes the lines of their answers, tries a host ten times that does
not answer or whose command ends with 255, and takes the exit code of the first host that failed.
$STANDIN/signs has a file for each thing that goes wrong: offline (no network), loggedout, unlisted (403 of the bucket),
nobucket (404), flakybucket, unreachable (ssh, all hosts), scp<host>.N (N copies that fail), keyless (an agent without
the key), slowcreate (create does not return as long as it is there).
"""

import json
import pathlib
import shutil
import socketserver
import subprocess
import threading
import time

from simulated_cloud import Cloud

HERE = pathlib.Path(__file__).resolve().parent / 'standins/tpu'
PLACE = {'--zone', '--project', '--format'}
REACH = {'--zone', '--project', '--quiet', '--worker', '--internal-ip'}
QUEUE = {'--node', '--tunnel-through-iap', '--batch-size'}  # what only queued-resources ssh and scp have
CREATE = {
    '--node-id', '--node-count', '--node-prefix', '--accelerator-type', '--runtime-version', '--valid-until-duration',
    '--spot', '--reserved', '--zone', '--project', '--network', '--subnetwork', '--internal-ips', '--service-account',
    '--labels', '--data-disk', '--tags', '--metadata', '--async',
}  # fmt: skip
FLAGS = {
    'queued-resources create': CREATE,
    'alpha queued-resources create': CREATE | {'--reservation', '--provisioning-model', '--max-run-duration'},
    'queued-resources describe': PLACE,
    'queued-resources delete': {'--force', '--quiet', '--async', '--zone', '--project'},
    'queued-resources ssh': REACH | QUEUE | {'--command', '--ssh-flag'},
    'queued-resources scp': REACH | QUEUE | {'--scp-flag'},
    'tpu-vm describe': PLACE,
    'tpu-vm ssh': REACH | {'--command', '--ssh-flag'},
    'tpu-vm scp': REACH | {'--scp-flag'},
    'accelerator-types describe': PLACE,
}
REQUEST = 'csv[no-heading](state.state,tpu.nodeSpec[].nodeId.list(separator=" "))'
NODE = 'csv[no-heading](state,health,acceleratorType.basename(),networkEndpoints.len(),createTime)'


class Failed(Exception):
    """The call ends with this text and code."""

    def __init__(self, text, code=1):
        super().__init__(text)
        self.code = code


class Call:
    """One call of gcloud that may take `limit` seconds; leaves its output in out and err."""

    def __init__(self, cloud, argv, limit):
        self.cloud, self.argv, self.limit, self.out, self.err = cloud, argv, limit, '', ''

    def run(self):
        """The exit code."""
        try:
            code = self._run()
        except Failed as failed:
            if str(failed):
                self.err += f'ERROR: (gcloud.{".".join(self.argv[:4])}) {failed}\n'
            return failed.code
        return code or 0

    def _run(self):
        words, cloud = list(self.argv), self.cloud
        track = f'{words.pop(0)} ' if words[0] in ('alpha', 'beta') else ''
        if words[:2] == ['auth', 'list']:
            self.out = '' if cloud.signs('loggedout') else 'me@example.com\n'
        elif words[:3] == ['config', 'get-value', 'project']:
            self.out = 'p\n'
        elif cloud.signs('offline'):
            self.take(30)
            raise Failed('Unable to find the server at tpu.googleapis.com')
        elif words[:2] == ['storage', 'ls']:
            self.storage_ls(words[2])
        elif track and words[:3] == ['quotas', 'info', 'list']:
            self.out = ''.join(f'{line}\n' for line in cloud.quota)
        elif words[:4] == ['compute', 'tpus', 'queued-resources', 'ssh'] and words[4:] == ['--help']:
            self.out = 'gcloud compute tpus queued-resources ssh [--internal-ip | --tunnel-through-iap]\n'
        elif words[:2] == ['compute', 'tpus']:
            return self.tpus(f'{track}{words[2]} {words[3]}', words[4:])
        else:
            raise Failed(f"Invalid choice: '{words[0]}'.", 2)
        return 0

    def tpus(self, verb, words):
        self.flags = {}
        for word in words:
            if word.startswith('--'):
                name, _, value = word.partition('=')
                self.flags[name] = f'{self.flags[name]} {value}' if name in self.flags else value
        if verb not in FLAGS or set(self.flags) - FLAGS[verb]:
            raise Failed(f'unrecognized arguments: {set(self.flags) - FLAGS.get(verb, set())}', 2)
        self.zone, self.words = self.flags['--zone'], [word for word in words if not word.startswith('--')]
        if self.zone not in self.cloud.zones:
            raise Failed(f"PERMISSION_DENIED: Permission denied on 'locations/{self.zone}' (or it may not exist).")
        kind, action = verb.removeprefix('alpha ').split()
        if action in ('ssh', 'scp'):
            return getattr(self, action)(kind)
        return getattr(self, f'{action}_{kind.replace("-", "_")}')()

    def take(self, seconds):
        """The call takes this long, or as long as it is allowed to."""
        if self.limit and seconds > self.limit:
            self.cloud.advance(self.limit)
            raise Failed('', 124)
        return self.cloud.advance(seconds)

    def found(self, name, kind='queuedResources'):
        """The request of this name, or of the node of this name."""
        for (zone, own), request in self.cloud.requests.items():
            is_it = name == own if kind == 'queuedResources' else name in self.cloud.names(request)
            state = self.cloud.state(request) if kind == 'queuedResources' else self.cloud.node(request)
            if zone == self.zone and is_it and state != 'NONE':
                return request
        raise Failed(f"NOT_FOUND: Resource 'projects/p/locations/{self.zone}/{kind}/{name}' was not found")

    def create_queued_resources(self):
        self.take(5)
        if int(self.flags.get('--node-count', 2)) < 2:
            raise Failed('Invalid value for [--node-count]: Node count must be greater than 1')
        if int(self.flags['--valid-until-duration'].rstrip('s')) <= 0:
            raise Failed('INVALID_ARGUMENT: valid_until_duration must be positive')
        if self.flags['--runtime-version'] == 'nonsense':
            raise Failed('INVALID_ARGUMENT: the runtime version nonsense does not exist')
        with self.cloud.lock:
            request = self.cloud.create(self.words[0], self.zone, self.flags)
        if isinstance(request, str):
            raise Failed(request)
        while self.cloud.signs('slowcreate'):
            time.sleep(0.02)
        if request.offer.lost:
            raise Failed('Operation projects/p/locations/x/operations/y has not finished in 1800 seconds')

    def describe_queued_resources(self):
        self.take(2)
        with self.cloud.lock:
            request = self.found(self.words[0])
            state = self.cloud.state(request)
        if 'failedData' in self.flags['--format']:
            self.out = f'{request.offer.why if state == "FAILED" else ""}\n'
        else:
            assert self.flags['--format'] == REQUEST, self.flags
            self.out = f'{state},{" ".join(self.cloud.names(request))}\n'

    def describe_tpu_vm(self):
        self.take(2)
        assert self.flags['--format'] == NODE, self.flags
        with self.cloud.lock:
            request = self.found(self.words[0], 'nodes')
            state = self.cloud.node(request)
        hosts = self.cloud.hosts if state == 'READY' else 0
        self.out = f'{state},{self.cloud.health(request)},{request.type},{hosts},{self.cloud.made(request)}\n'

    def delete_queued_resources(self):
        self.take(3)
        with self.cloud.lock:
            request = self.found(self.words[0])
            state = self.cloud.state(request)
            if '--force' not in self.flags and self.cloud.node(request) != 'NONE':
                raise Failed('FAILED_PRECONDITION: the queued resource has nodes; use force')
            if request.refused < request.offer.refuses:
                request.refused += 1
                raise Failed(f'FAILED_PRECONDITION: the queued resource is {state} and cannot be deleted')
            request.deleted = request.deleted or self.cloud.now
            self.cloud.evolve()

    def describe_accelerator_types(self):
        self.take(1)
        if self.words[0] in self.cloud.lacks.get(self.zone, []):
            raise Failed(
                f"NOT_FOUND: Resource 'projects/p/locations/{self.zone}/acceleratorTypes/{self.words[0]}' was not found"
            )
        self.out = f'{self.words[0]}\n'

    def storage_ls(self, url):
        self.take(2)
        for sign, text in {
            'nobucket': f'{url.split("/")[2]} not found: 404.',
            'unlisted': 'HTTPError 403: me@example.com does not have storage.objects.list access',
        }.items():
            if self.cloud.signs(sign):
                raise Failed(text)
        if self.cloud.spend('flakybucket'):
            raise Failed('HTTPError 503: try again')
        steps = sorted(path.name for path in (self.cloud.root / 'bucket').iterdir())
        if '/checkpoints' in url and not steps:
            raise Failed('One or more URLs matched no objects.')
        self.out = ''.join(f'{url}{step}/\n' for step in steps)

    def chosen(self, kind, target):
        """Sets request and hosts: those that this ssh or scp is for."""
        with self.cloud.lock:
            self.request = self.found(target, 'queuedResources' if kind == 'queued-resources' else 'nodes')
            state = self.cloud.node(self.request)
        if state in ('PREEMPTED', 'TERMINATED'):
            raise Failed(f'The TPU VM is in the terminal state "{state}" and cannot be used anymore.')
        if state != 'READY':
            raise Failed(f'The TPU VM is in state "{state}", and therefore cannot be used.')
        worker, node, count = self.flags.get('--worker', '0'), self.flags.get('--node', '0'), self.request.count
        workers = range(self.cloud.hosts) if worker == 'all' else worker.split(',')
        slices = range(count) if node == 'all' else [node]
        self.hosts = [f'{number}.{worker}' if count > 1 else f'{worker}' for number in slices for worker in workers]
        if len(self.hosts) > 1 and self.cloud.signs('keyless'):
            raise Failed('The SSH key is not present in the SSH agent.')

    def silence(self, host):
        """Seconds that this host keeps gcloud waiting: ten tries, as long as ssh takes for one, and a pause."""
        is_outside = self.request.internal and not {'--internal-ip', '--tunnel-through-iap'} & set(self.flags)
        if not is_outside and not self.cloud.is_silent(self.request, host):
            return 0
        text = self.flags.get('--ssh-flag', self.flags.get('--scp-flag', ''))
        limit = [int(word.partition('=')[2]) for word in text.split() if word.startswith('-oConnectTimeout=')]
        return 10 * ((limit[0] if limit else 127) + 5)

    def scp(self, kind):
        self.chosen(kind, self.words[-1].partition(':')[0].rpartition('@')[2])
        self.take(5)
        code = 0
        for host in self.hosts:
            if self.cloud.spend(f'scp{host}'):
                self.err += f'##### Command execution on worker {host} failed with exit status 1. Continuing.\n'
                code = 1
            elif not self.silence(host):
                shutil.copy(self.words[0], self.cloud.home(self.zone, host))
        self.wait_for_silent()
        return code

    def ssh(self, kind):
        self.chosen(kind, self.words[0].rpartition('@')[2])
        self.err += f'Using ssh batch size of 1. Attempting to SSH into {len(self.hosts)} workers.\n'
        self.take(3)
        started = [(host, self.start(host)) for host in self.hosts if not self.silence(host)]
        texts, codes = [], []
        for host, process in started:
            text, tries = process.communicate()[0], 1
            while process.returncode == 255 and tries < 10:  # taken for a lost connection
                process, tries = self.start(host), tries + 1
                text += process.communicate()[0]
            texts.append(text)
            codes.append(process.returncode)
        self.out = mixed(texts)
        self.wait_for_silent()
        return next((code for code in codes if code), 0)

    def start(self, host):
        home, root = self.cloud.home(self.zone, host), self.cloud.root
        number, _, worker = host.rpartition('.')
        env = {
            'PATH': f'{HERE}/host:/usr/bin:/bin', 'HOME': str(home), 'STANDIN': str(root), 'STANDIN_HOST': host,
            'STANDIN_WORKER': worker, 'STANDIN_SLICE': number,
            'STANDIN_INDEX': str(int(number or 0) * self.cloud.hosts + int(worker)),
            'RVM_TPU_SYSTEM': str(root / 'system' / host),
        }  # fmt: skip
        self.err += f'SSH: Attempting to connect to worker {host}...\n'
        return subprocess.Popen(
            ['bash', '-c', self.flags['--command']], env=env, cwd=home, start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def wait_for_silent(self):
        silent = [host for host in self.hosts if self.silence(host)]
        if silent:
            self.err += ''.join(f'ssh: connect to host {host} port 22: Connection timed out\n' for host in silent)
            self.take(max(map(self.silence, silent)))
            raise Failed('', 255)


def mixed(texts):
    """Lines of all hosts, in turn, the last host first: what one shared stdout looks like."""
    rows = [text.splitlines(keepends=True) for text in reversed(texts)]
    longest = max(map(len, rows), default=0)
    return ''.join(lines[number] for number in range(longest) for lines in rows if number < len(lines))


class Server(socketserver.ThreadingTCPServer):
    """Answers the script gcloud, which is sleep and timeout too; calls are written to $STANDIN/calls.jsonl."""

    daemon_threads, request_queue_size = True, 50

    def __init__(self, root):
        super().__init__(('127.0.0.1', 0), Handler)
        self.root, self.cloud = root, Cloud(root)
        threading.Thread(target=self.serve_forever, kwargs={'poll_interval': 0.05}, daemon=True).start()

    def handle_error(self, *_):
        import traceback

        with open(self.root / 'errors', 'a') as file:
            traceback.print_exc(file=file)


class Handler(socketserver.StreamRequestHandler):
    def handle(self):
        limit, count = self.rfile.readline().split()
        name, *argv = (self._word() for _ in range(int(count)))
        if name == 'sleep':
            self.server.cloud.advance(int(argv[0]))
            time.sleep(0.005)  # real programs get a moment to do something
            self.wfile.write(b'0 0 0\n')
            return
        with self.server.cloud.lock, open(self.server.root / 'calls.jsonl', 'a') as calls:
            calls.write(json.dumps(argv) + '\n')
        call = Call(self.server.cloud, argv, int(limit))
        code = call.run()
        error, output = call.err.encode(), call.out.encode()
        self.wfile.write(f'{code} {len(error)} {len(output)}\n'.encode() + error + output)

    def _word(self):
        word = bytearray()
        while (byte := self.rfile.read(1)) != b'\0':
            word += byte
        return word.decode()
