"""A stand-in for a GKE cluster: the part of the Kubernetes interface that the real kubectl uses for launch/gke.sh.

It refuses what a cluster refuses: kinds it does not have, names that are there already, fields that are not in
jobset_schema.json (JobSet's own fields from kubernetes-sigs/jobset, those of Job and Pod from Kubernetes' published
schema). Its JobSet controller is run by each request: pods are processes on this machine, which get command, arguments
and environment as Kubernetes would expand them, and whose exit codes go through podFailurePolicy and failurePolicy.
"""

import contextlib
import http.server
import json
import os
import pathlib
import re
import signal
import subprocess
import threading
import time
import urllib.parse

GROUP, VERSION = 'jobset.x-k8s.io', 'v1alpha2'
SCHEMA = json.loads(pathlib.Path(__file__).with_name('jobset_schema.json').read_text())
JOBSET = '/apis/jobset.x-k8s.io/v1alpha2/namespaces/default/jobsets'


class Refused(Exception):
    """A Status object instead of an answer."""

    def __init__(self, code, reason, message):
        super().__init__(message)
        status = {'kind': 'Status', 'apiVersion': 'v1', 'status': 'Failure'}
        self.code, self.status = code, {**status, 'reason': reason, 'message': message, 'code': code}


def check(value, schema, path=''):
    """Refuse a value that does not fit."""
    kinds = {'object': dict, 'array': list, 'string': str, 'integer': int, 'boolean': bool}
    kind = kinds.get(schema.get('type'), object)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise Refused(422, 'Invalid', f'{path}: Invalid value: {value!r}: must be of type {schema["type"]}')
    if 'enum' in schema and value not in schema['enum']:
        raise Refused(422, 'Invalid', f'{path}: Unsupported value: {value!r}')
    if 'properties' in schema:
        if unknown := value.keys() - schema['properties'].keys():
            raise Refused(400, 'BadRequest', f'strict decoding error: unknown field "{path}.{min(unknown)}"')
        if missing := set(schema['required']) - value.keys():
            raise Refused(422, 'Invalid', f'{path}.{min(missing)}: Required value')
        for name, part in value.items():
            check(part, schema['properties'][name], f'{path}.{name}')
    for name, part in value.items() if 'values' in schema else ():
        check(part, schema['values'], f'{path}.{name}')
    for number, part in enumerate(value) if 'items' in schema else ():
        check(part, schema['items'], f'{path}[{number}]')


def expand(text, known):
    """What Kubernetes makes of $(NAME) and $$ in a command, an argument or a variable."""
    return re.sub(
        r'\$\$|\$\(([A-Za-z_][A-Za-z0-9_]*)\)',
        lambda found: '$' if found[0] == '$$' else known.get(found[1], found[0]),
        text,
    )


class Pod:
    """One host: a process once it has a node, with a log of its own."""

    def __init__(self, cluster, jobset, restart, slice_, host):
        self.cluster, self.slice, self.host = cluster, slice_, host
        self.jobset, self.name = jobset, f'{jobset}-slice-{slice_}-{host}-r{restart}'
        self.process = self.code = self.waiting = None
        self.deleted, self.log = False, cluster.folder / f'{self.name}.log'
        self.log.touch()

    def start(self, template):
        (container,) = template['spec']['containers']
        known = {}
        for variable in container['env']:
            known[variable['name']] = expand(variable.get('value', str(self.slice)), known)
        words = [expand(word, known) for word in (*container['command'], *container['args'])]
        words = [word.replace('/opt/rvm_jax', str(self.cluster.checkout)) for word in words]
        names = [f'{self.jobset}-slice-{self.slice}-{host}.{self.jobset}' for host in range(self.cluster.hosts)]
        injected = {'JOB_COMPLETION_INDEX': str(self.host), 'TPU_WORKER_ID': str(self.host)}
        injected['TPU_WORKER_HOSTNAMES'] = self.cluster.worker_hostnames or ','.join(names)
        if self.cluster.slices > 1:
            injected |= {'MEGASCALE_NUM_SLICES': str(self.cluster.slices), 'MEGASCALE_SLICE_ID': str(self.slice)}
        with self.log.open('ab') as log:
            self.process = subprocess.Popen(
                words, env={**self.cluster.env, **known, **injected, 'POD': self.name}, stdout=log,
                stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip

    def end(self):
        self.deleted = True
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)

    @property
    def phase(self):
        if self.process is None:
            return 'Pending'
        code = self.process.poll()
        self.code = code if code is None or code >= 0 else 128 - code
        return 'Running' if code is None else 'Failed' if code else 'Succeeded'

    def as_object(self):
        state, phase = {}, self.phase
        if self.waiting:
            state = {'waiting': {'reason': self.waiting}}
        elif self.code is not None:
            state = {'terminated': {'exitCode': self.code}}
        labels = {'jobset.sigs.k8s.io/jobset-name': self.jobset, 'jobset.sigs.k8s.io/job-index': str(self.slice)}
        return {
            'kind': 'Pod', 'apiVersion': 'v1',
            'metadata': {
                'name': self.name, 'namespace': 'default', 'labels': labels,
                'annotations': {'batch.kubernetes.io/job-completion-index': str(self.host)},
            },
            'spec': {
                'containers': [{'name': 'train', 'resources': {'limits': {'google.com/tpu': '4'}}}],
                **({'nodeName': f'node-{self.slice}-{self.host}'} if self.process or self.waiting else {}),
            },
            'status': {
                'phase': phase, 'startTime': '2026-01-01T00:00:00Z',
                'containerStatuses': [{'name': 'train', 'state': state}],
            },
        }  # fmt: skip


class Cluster:
    """The objects of a cluster, and what its controllers make of them."""

    def __init__(self, folder, checkout, env):
        self.folder, self.checkout, self.env = folder, checkout, env
        self.has_jobset, self.capacity, self.image_error, self.worker_hostnames = True, True, None, ''
        self.nodes, self.accounts, self.jobsets, self.pods, self.requests = [], ['default'], {}, [], []
        self.hosts = self.slices = 0
        self.lock = threading.RLock()
        folder.mkdir(parents=True, exist_ok=True)
        self.server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), type('Bound', (Handler,), {'cluster': self}))
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()
        self.url = f'http://127.0.0.1:{self.server.server_address[1]}'

    def close(self):
        self.disconnect()
        for pod in self.pods:
            if pod.process:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(pod.process.pid, signal.SIGKILL)
                pod.process.wait()

    def disconnect(self):
        """From now on nothing answers."""
        self.server.shutdown()
        self.server.server_close()

    def control(self):
        """What the controllers of JobSet, Job and the scheduler do now."""
        for name, jobset in list(self.jobsets.items()):
            mine = [pod for pod in self.pods if pod.jobset == name]
            for pod in mine:
                if pod.deleted and pod.phase != 'Running':
                    self.pods.remove(pod)
            mine = [pod for pod in self.pods if pod.jobset == name]
            spec, status = jobset['spec'], jobset['status']
            if jobset.get('deleted') or spec.get('suspend'):
                for pod in mine:
                    pod.end()
                if jobset.get('deleted') and not mine:
                    del self.jobsets[name]
                continue
            if status['conditions'] or any(pod.deleted for pod in mine):
                continue
            (replicated,) = spec['replicatedJobs']
            if not mine:
                self.slices, self.hosts = replicated['replicas'], replicated['template']['spec']['completions']
                places = [(slice_, host) for slice_ in range(self.slices) for host in range(self.hosts)]
                self.pods += [Pod(self, name, status['restarts'], *place) for place in places]
            elif self.image_error:
                for pod in mine:
                    pod.waiting = self.image_error
            elif self.capacity:
                for pod in mine:
                    if pod.process is None:
                        pod.start(replicated['template']['spec']['template'])
            self.judge(spec, replicated['template']['spec'], status, mine)

    def judge(self, spec, job, status, pods):
        failed = [pod for pod in pods if pod.phase == 'Failed']
        if pods and all(pod.phase == 'Succeeded' for pod in pods):
            status['conditions'] = [{'type': 'Completed', 'status': 'True'}]
        if not failed:
            return
        (rule,) = job['podFailurePolicy']['rules']
        is_final = any(pod.code in rule['onExitCodes']['values'] for pod in failed)
        reason = 'PodFailurePolicy' if is_final else 'BackoffLimitExceeded'
        rules = spec['failurePolicy']['rules']
        actions = [each['action'] for each in rules if reason in each['onJobFailureReasons']] or ['RestartJobSet']
        gone = status['restarts'] >= spec['failurePolicy']['maxRestarts']
        for pod in pods:
            if pod not in failed or (actions[0] != 'FailJobSet' and not gone):
                pod.end()
        if actions[0] == 'FailJobSet' or gone:
            message = 'jobset failed due to reaching max number of restarts' if gone else 'jobset failed'
            status['conditions'] = [{'type': 'Failed', 'status': 'True', 'message': message}]
        else:
            status['restarts'] += 1

    def respond(self, verb, path, query, body):
        """The object that answers a request."""
        if path == '/version':
            return {'major': '1', 'minor': '32', 'gitVersion': 'v1.32.4'}
        if path in DISCOVERY and (self.has_jobset or GROUP not in path):
            return DISCOVERY[path]
        if path == '/openapi/v3':
            return {'paths': {f'apis/{GROUP}/{VERSION}': {'serverRelativeURL': OPENAPI}} if self.has_jobset else {}}
        if path == '/apis':
            groups = [{'groupVersion': f'{GROUP}/{VERSION}', 'version': VERSION}] if self.has_jobset else []
            listed = [{'name': GROUP, 'versions': groups, 'preferredVersion': groups[0]}] if groups else []
            return {'kind': 'APIGroupList', 'apiVersion': 'v1', 'groups': listed}
        self.requests.append((verb, path, query, body))
        kind, _, name = path.removeprefix('/api/v1/').removeprefix('namespaces/default/').partition('/')
        if path.startswith(JOBSET) and self.has_jobset:
            return self.jobset(verb, path.removeprefix(JOBSET).lstrip('/'), query, body)
        wanted = dict(pair.split('=') for pair in query.get('labelSelector', '').split(',') if pair)
        if kind == 'pods' and not name:
            return listing('Pod', [pod.as_object() for pod in self.pods], wanted)
        if kind == 'nodes' and not name:
            return listing('Node', self.nodes, wanted)
        if kind == 'serviceaccounts' and name in self.accounts:
            return {'kind': 'ServiceAccount', 'apiVersion': 'v1', 'metadata': {'name': name, 'namespace': 'default'}}
        for pod in self.pods:
            if kind == 'pods' and name == pod.name:
                return pod.as_object()
        raise Refused(404, 'NotFound', f'{kind} "{name}" not found')

    def jobset(self, verb, name, query, body):
        if verb == 'POST':
            check(body, SCHEMA)
            name = body['metadata']['name']
            if name in self.jobsets:
                raise Refused(409, 'AlreadyExists', f'jobsets.{GROUP} "{name}" already exists')
            if query.get('dryRun') != 'All':
                self.jobsets[name] = {**body, 'status': {'restarts': 0, 'conditions': []}}
            return body
        if name not in self.jobsets:
            raise Refused(404, 'NotFound', f'jobsets.{GROUP} "{name}" not found')
        jobset = self.jobsets[name]
        if verb == 'PATCH':
            if body.keys() != {'spec'} or body['spec'].keys() != {'suspend'}:
                raise Refused(422, 'Invalid', 'spec: field is immutable')
            jobset['spec'] |= body['spec']
        if verb == 'DELETE':
            jobset['deleted'] = True
        return {key: value for key, value in jobset.items() if key != 'deleted'}

    def log(self, name, query):
        """Yields the log of a pod; with follow until its process has ended."""
        (pod,) = [pod for pod in self.pods if pod.name == name] or [None]
        if pod is None:
            raise Refused(404, 'NotFound', f'pods "{name}" not found')
        if pod.process is None:
            raise Refused(400, 'BadRequest', f'container "train" in pod "{name}" is waiting to start')

        def pieces():
            with pod.log.open('rb') as file:
                if 'tailLines' in query:
                    yield b''.join(file.readlines()[-int(query['tailLines']) :])
                while True:
                    has_ended = pod.phase != 'Running' or not query.get('follow')
                    yield file.read()
                    if has_ended:
                        return
                    time.sleep(0.01)

        return pieces()


def listing(kind, objects, wanted):
    found = [item for item in objects if wanted.items() <= item['metadata']['labels'].items()]
    return {'kind': f'{kind}List', 'apiVersion': 'v1', 'metadata': {}, 'items': found}


def resource(name, kind, namespaced, verbs='get list create patch delete'):
    return {'name': name, 'singularName': '', 'namespaced': namespaced, 'kind': kind, 'verbs': verbs.split()}


OPENAPI = f'/openapi/v3/apis/{GROUP}/{VERSION}'
DISCOVERY = {
    OPENAPI: {  # says no more than that the cluster itself looks for unknown fields
        'openapi': '3.0.0', 'info': {'title': 'Kubernetes', 'version': '1'},
        'paths': {
            f'{JOBSET}/{{name}}'.replace('/default/', '/{namespace}/'): {
                'patch': {
                    'x-kubernetes-group-version-kind': {'group': GROUP, 'version': VERSION, 'kind': 'JobSet'},
                    'parameters': [{'name': 'fieldValidation', 'in': 'query'}, {'name': 'dryRun', 'in': 'query'}],
                },
            },
        },
    },
    '/api': {'kind': 'APIVersions', 'versions': ['v1']},
    '/api/v1': {
        'kind': 'APIResourceList', 'groupVersion': 'v1',
        'resources': [
            resource('pods', 'Pod', True), resource('pods/log', 'Pod', True, 'get'), resource('nodes', 'Node', False),
            resource('serviceaccounts', 'ServiceAccount', True),
        ],
    },
    f'/apis/{GROUP}/{VERSION}': {
        'kind': 'APIResourceList', 'apiVersion': 'v1', 'groupVersion': f'{GROUP}/{VERSION}',
        'resources': [{**resource('jobsets', 'JobSet', True), 'singularName': 'jobset'}],
    },
}  # fmt: skip


class Handler(http.server.BaseHTTPRequestHandler):
    """HTTP around a Cluster."""

    protocol_version = 'HTTP/1.1'

    def answer(self):
        body = self.rfile.read(int(self.headers.get('Content-Length', 0)))
        url = urllib.parse.urlsplit(self.path)
        query = dict(urllib.parse.parse_qsl(url.query))
        if url.path.endswith('/pods'):
            time.sleep(0.2)  # whoever looks again and again leaves the processor to the pods
        try:
            with self.cluster.lock:
                self.cluster.control()
                if url.path.endswith('/log'):
                    return self.stream(self.cluster.log(url.path.split('/')[-2], query))
                content = self.cluster.respond(self.command, url.path, query, json.loads(body or 'null'))
                status = 201 if self.command == 'POST' else 200
        except Refused as refusal:
            status, content = refusal.code, refusal.status
        content = json.dumps(content).encode()
        self.send_response(status)
        self.send_header('Content-Type', 'application/json')
        self.send_header('Content-Length', str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def stream(self, pieces):
        self.send_response(200)
        self.send_header('Content-Type', 'text/plain')
        self.send_header('Transfer-Encoding', 'chunked')
        self.end_headers()
        self.close_connection = True
        self.pieces = pieces

    def handle_one_request(self):
        self.pieces = None
        super().handle_one_request()
        if self.pieces is None:
            return
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            for piece in self.pieces:
                if piece:
                    self.wfile.write(b'%x\r\n%s\r\n' % (len(piece), piece))
                    self.wfile.flush()
            self.wfile.write(b'0\r\n\r\n')

    do_GET = do_POST = do_PATCH = do_DELETE = answer

    def log_message(self, *_):
        """Nothing."""
