"""A stand-in for Google as the issuer of ID tokens: serves a discovery document and keys, signs tokens as
Cloud Scheduler and Cloud Run would send them, and changes its key when it is told to.
needs: openssl."""
import base64
import http.server
import json
import os
import subprocess
import threading
import time

LIFETIME_S = 3600


def b64(data):
    return base64.urlsafe_b64encode(data).rstrip(b'=').decode()


class Issuer:
    def __init__(self, work, audience):
        self.work, self.audience = work, audience
        self.keys = []
        issuer = self

        class Pages(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                body = json.dumps(issuer.page(self.path)).encode()
                self.send_response(200)
                self.send_header('content-type', 'application/json')
                self.send_header('cache-control', 'max-age=1')
                self.send_header('content-length', str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Pages)
        self.url = 'http://127.0.0.1:%d' % self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.rotate()

    def rotate(self):
        """Signs with a new key from now on; the one before is still published."""
        path = os.path.join(self.work, 'key-%d.pem' % len(self.keys))
        subprocess.run(['openssl', 'genrsa', '-out', path, '2048'], check=True, capture_output=True)
        modulus = subprocess.run(['openssl', 'rsa', '-in', path, '-noout', '-modulus'], check=True, capture_output=True, text=True)
        n = bytes.fromhex(modulus.stdout.strip().split('=')[1])
        self.keys.append((path, {'kty': 'RSA', 'alg': 'RS256', 'use': 'sig', 'kid': 'key-%d' % len(self.keys),
                                 'n': b64(n), 'e': 'AQAB'}))

    def page(self, path):
        if path.endswith('openid-configuration'):
            return {'issuer': self.url, 'jwks_uri': self.url + '/jwks', 'id_token_signing_alg_values_supported': ['RS256']}
        return {'keys': [key for _, key in self.keys[-2:]]}

    def token(self, email, **changed):
        """An ID token of an account; `changed` replaces claims, for tokens that must be refused."""
        now = int(time.time())
        claims = {'iss': self.url, 'aud': self.audience, 'sub': email, 'email': email, 'email_verified': True,
                  'iat': now, 'exp': now + LIFETIME_S, **changed}
        path, key = self.keys[-1]
        signed = '%s.%s' % (b64(json.dumps({'alg': 'RS256', 'typ': 'JWT', 'kid': key['kid']}).encode()),
                            b64(json.dumps(claims).encode()))
        signature = subprocess.run(['openssl', 'dgst', '-sha256', '-sign', path], input=signed.encode(), check=True,
                                   capture_output=True).stdout
        return '%s.%s' % (signed, b64(signature))
