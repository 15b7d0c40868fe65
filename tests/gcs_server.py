"""A stand-in for Google Cloud Storage: the part of its JSON interface that gcsfs, Orbax and TensorStore use.

Run it as a program; it prints its address. Objects live in memory; a bucket is there as soon as it is named.
POST /faults/BUCKET with {"rate": 0.05, "status": 503, "only": "part of a name"} makes that share of the requests
fail, evenly spread (0.5: every second one; 1: all of them), so that how often one act fails is not left to chance; GET
/faults/BUCKET tells {"requests": ..., "failed": ...} since then.
"""

import base64
import contextlib
import email
import hashlib
import http.server
import json
import math
import re
import threading
import urllib.parse

lock = threading.RLock()
buckets, uploads, faults, generations = {}, {}, {}, iter(range(1, 10**9))


class Refused(Exception):
    """Ends a request with a status."""


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    disable_nagle_algorithm = True

    def answer(self):
        length = int(self.headers.get('Content-Length', 0))
        body = self.chunks() if self.headers.get('Transfer-Encoding') == 'chunked' else self.rfile.read(length)
        url = urllib.parse.urlsplit(self.path)
        query = dict(urllib.parse.parse_qsl(url.query))
        with lock:
            try:
                status, headers, content = respond(self.command, url.path, query, self.headers, body)
            except Refused as refusal:
                status, headers, content = refusal.args[0], {}, {'error': {'code': refusal.args[0], 'message': 'no'}}
        content = json.dumps(content).encode() if isinstance(content, dict) else content
        content = b'' if status in (204, 304) else content
        self.send_response(status)
        for name, value in {'Content-Type': 'application/json', **headers, 'Content-Length': len(content)}.items():
            self.send_header(name, str(value))
        self.end_headers()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # a client that only wanted the headers
            self.wfile.write(b'' if self.command == 'HEAD' else content)

    do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = do_PATCH = answer

    def chunks(self):
        body = b''
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def log_message(self, *_):
        pass


def respond(method, path, query, headers, body):
    """(status, headers, content) of one request."""
    if match := re.fullmatch('/faults/([^/]+)', path):
        if method == 'POST':
            faults[match[1]] = {'rate': 0, 'status': 503, 'only': '', 'requests': 0, 'failed': 0, **json.loads(body)}
        return 200, {}, faults.get(match[1], {})
    if path == '/batch/storage/v1':
        return batch(headers, body)
    match = re.fullmatch('(/upload)?(?:/resumable)?/(?:download/)?storage/v1/b/([^/]+)(?:/o(?:/(.+))?)?', path)
    if not match:
        raise Refused(404)
    is_upload, bucket, name = match[1], match[2], urllib.parse.unquote(match[3] or '')
    objects = buckets.setdefault(bucket, {})
    if is_upload or re.search('/o(/|$)', path):  # the client asks for the bucket itself at times of its own choosing
        maybe_fail(bucket, name or query.get('name') or query.get('prefix', ''))
    if is_upload:
        return upload(method, objects, bucket, query, headers, body)
    if not re.search('/o(/|$)', path):
        return 200, {}, {'name': bucket, 'kind': 'storage#bucket', 'location': 'US', 'storageClass': 'STANDARD'}
    if not name:
        return 200, {}, listing(objects, bucket, query)
    return one_object(method, objects, bucket, name, query, headers)


def maybe_fail(bucket, name):
    rule = faults.get(bucket)
    if rule:
        rule['requests'] += rule['only'] in name
        if rule['only'] in name and rule['failed'] < math.floor(rule['rate'] * rule['requests']):
            rule['failed'] += 1
            raise Refused(rule['status'])


def one_object(method, objects, bucket, name, query, headers):
    data, generation = objects.get(name, (b'', 0))
    if 'ifGenerationNotMatch' in query and generation == int(query['ifGenerationNotMatch']):
        raise Refused(304 if generation else 404)
    check_generation(generation, query)
    if not generation:
        raise Refused(404)
    if method == 'DELETE':
        del objects[name]
        return 204, {}, b''
    if query.get('alt') != 'media':
        return 200, {}, describe(bucket, name, data, generation)
    found = {'x-goog-generation': generation, 'Content-Type': 'application/octet-stream', 'ETag': generation}
    if wanted := re.fullmatch(r'bytes=(\d*)-(\d*)', headers.get('Range', '')):
        first = int(wanted[1]) if wanted[1] else max(len(data) - int(wanted[2]), 0)
        last = min(int(wanted[2]), len(data) - 1) if wanted[1] and wanted[2] else len(data) - 1
        if first >= len(data):
            raise Refused(416)
        return 206, {**found, 'Content-Range': f'bytes {first}-{last}/{len(data)}'}, data[first : last + 1]
    return 200, found, data


def upload(method, objects, bucket, query, headers, body):
    if query.get('uploadType') == 'resumable' and 'upload_id' not in query:
        name = query.get('name') or json.loads(body)['name']
        identifier = str(next(generations))
        uploads[identifier] = [name, query, b'']
        place = f'http://{headers["Host"]}/upload/storage/v1/b/{bucket}/o?uploadType=resumable&upload_id={identifier}'
        return 200, {'Location': place}, {}
    if 'upload_id' in query:
        name, conditions, before = uploads[query['upload_id']]
        if method == 'DELETE':
            return 499, {}, b''
        uploads[query['upload_id']][2] = data = before + body
        total = headers.get('Content-Range', '/*').rpartition('/')[2]
        if (total != '*' and len(data) < int(total)) or total == '*':
            return 308, {'Range': f'bytes=0-{len(data) - 1}'} if data else {}, b''
        return put(objects, bucket, name, data, conditions)
    if query.get('uploadType') == 'multipart':
        _, text, content, _ = body.split(b'--' + boundary(headers), 3)
        name = (
            query.get('name') or json.loads(text.partition(b'\r\n\r\n' if b'\r\n\r\n' in text else b'\n\n')[2])['name']
        )
        data = content.partition(b'\r\n\r\n' if b'\r\n\r\n' in content else b'\n\n')[2]
        return put(objects, bucket, name, data.removesuffix(b'\n').removesuffix(b'\r'), query)
    return put(objects, bucket, query['name'], body, query)


def boundary(headers):
    return email.message_from_string(f'Content-Type: {headers["Content-Type"]}\n\n').get_boundary().encode()


def put(objects, bucket, name, data, query):
    check_generation(objects.get(name, (b'', 0))[1], query)
    objects[name] = data, next(generations)
    return 200, {}, describe(bucket, name, *objects[name])


def check_generation(generation, query):
    if 'ifGenerationMatch' in query and generation != int(query['ifGenerationMatch']):
        raise Refused(412)


def describe(bucket, name, data, generation):
    return {
        'kind': 'storage#object', 'bucket': bucket, 'name': name, 'size': str(len(data)), 'id': f'{bucket}/{name}',
        'generation': str(generation), 'metageneration': '1', 'storageClass': 'STANDARD', 'etag': str(generation),
        'contentType': 'application/octet-stream',
        'timeCreated': '2026-01-01T00:00:00.000Z', 'updated': '2026-01-01T00:00:00.000Z',
        'md5Hash': base64.b64encode(hashlib.md5(data).digest()).decode(),
    }  # fmt: skip


def listing(objects, bucket, query):
    prefix, delimiter = query.get('prefix', ''), query.get('delimiter')
    items, prefixes = [], set()
    for name in sorted(objects):
        if not name.startswith(prefix) or not query.get('startOffset', '') <= name < query.get(
            'endOffset', '\U0010ffff'
        ):
            continue
        rest = name[len(prefix) :]
        if delimiter and delimiter in rest:
            prefixes.add(prefix + rest.partition(delimiter)[0] + delimiter)
        else:
            items.append(describe(bucket, name, *objects[name]))
    return {'kind': 'storage#objects', 'items': items, 'prefixes': sorted(prefixes)}


def batch(headers, body):
    """Several requests in one, as gcsfs deletes."""
    parts = []
    for part in body.split(b'--' + boundary(headers))[1:-1]:
        number = re.search(rb'Content-ID: *<?([^>\r\n]*)', part)
        request = re.search(rb'(DELETE|GET|PATCH) (\S+) HTTP', part)
        url = urllib.parse.urlsplit(request[2].decode())
        try:
            status, _, _ = respond(request[1].decode(), url.path, dict(urllib.parse.parse_qsl(url.query)), {}, b'')
        except Refused as refusal:
            status = refusal.args[0]
        identifier = number[1].decode() if number else ''
        parts.append(f'--x\r\nContent-Type: application/http\r\nContent-ID: <response-{identifier}>\r\n\r\n'
                     f'HTTP/1.1 {status} said\r\nContent-Length: 0\r\n\r\n\r\n')  # fmt: skip
    return 200, {'Content-Type': 'multipart/mixed; boundary=x'}, ''.join([*parts, '--x--']).encode()


class Server(http.server.ThreadingHTTPServer):
    def handle_error(self, *_):
        pass  # a client that went away


if __name__ == '__main__':
    server = Server(('127.0.0.1', 0), Handler)
    print(f'http://127.0.0.1:{server.server_port}', flush=True)
    server.serve_forever()
