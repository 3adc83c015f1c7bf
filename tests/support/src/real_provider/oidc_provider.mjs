// The certified server `oidc-provider`, for the tests. Its first argument is the path of its main module.
// With a second one, which is a directory, it serves TLS with the certificates in that directory.
//
// It prints one line of JSON as soon as it listens. After that it obeys lines on its standard input, and
// answers each with a line. It ends when its standard input ends, so it never outlives a test.
import { generateKeyPairSync } from 'node:crypto';
import { readFileSync } from 'node:fs';
import http from 'node:http';
import https from 'node:https';
import { createInterface } from 'node:readline';
import { pathToFileURL } from 'node:url';

const [module, directory] = process.argv.slice(2);
// Standard output is for the tests only.
console.info = console.warn = console.log = console.error;

// `later SECONDS` moves the clock of this process, and with it the expiry of all tokens.
const now = Date.now;
let moved = 0;
Date.now = () => now() + moved * 1000;

const { Provider } = await import(pathToFileURL(module));

const read = (name) => readFileSync(`${directory}/${name}`);
const listener = directory
  ? https.createServer({
    ca: read('ca.pem'),
    cert: read('server.pem'),
    key: read('server-key.pem'),
    // A client without a certificate is served too. Only the client `mtls` needs one.
    rejectUnauthorized: false,
    requestCert: true,
  })
  : http.createServer();
await new Promise((listening) => { listener.listen(0, '127.0.0.1', listening); });
const issuer = `${directory ? 'https' : 'http'}://127.0.0.1:${listener.address().port}`;

// The keys of the client `jwt`, one for each algorithm.
const keys = {
  EdDSA: generateKeyPairSync('ed25519'),
  ES256: generateKeyPairSync('ec', { namedCurve: 'P-256' }),
  RS256: generateKeyPairSync('rsa', { modulusLength: 2048 }),
};
const jwks = Object.entries(keys).map(([alg, { publicKey }]) => (
  { ...publicKey.export({ format: 'jwk' }), alg, kid: `key-${alg}`, use: 'sig' }));

const DEVICE = 'urn:ietf:params:oauth:grant-type:device_code';
const client = (id, method, more = {}) => ({
  application_type: 'native',
  client_id: id,
  client_secret: method.startsWith('client_secret') ? 'canary-secret' : undefined,
  grant_types: ['authorization_code', 'refresh_token', DEVICE],
  redirect_uris: ['http://127.0.0.1/callback', 'http://localhost/callback'],
  response_types: ['code'],
  token_endpoint_auth_method: method,
  ...more,
});
const service = (id, method, more = {}) => client(id, method, {
  grant_types: ['client_credentials'], redirect_uris: [], response_types: [], ...more,
});

const provider = new Provider(issuer, {
  clients: [
    client('public', 'none'),
    client('basic', 'client_secret_basic'),
    client('post', 'client_secret_post'),
    client('jwt', 'private_key_jwt', { jwks: { keys: jwks } }),
    service('service-basic', 'client_secret_basic'),
    service('service-jwt', 'private_key_jwt', { jwks: { keys: jwks } }),
    ...(directory ? [service('mtls', 'tls_client_auth', { tls_client_auth_san_dns: 'client.example' })] : []),
  ],
  clientAuthMethods: [
    'client_secret_basic', 'client_secret_post', 'none', 'private_key_jwt',
    ...(directory ? ['tls_client_auth'] : []),
  ],
  cookies: { keys: ['canary-cookie'] },
  features: {
    clientCredentials: { enabled: true },
    // Its pages for signing in and for consent. The test uses them as a browser does.
    devInteractions: { enabled: true },
    deviceFlow: { enabled: true },
    introspection: { enabled: true },
    mTLS: {
      enabled: Boolean(directory),
      tlsClientAuth: true,
      getCertificate: (ctx) => ctx.socket.getPeerX509Certificate(),
      certificateAuthorized: (ctx) => ctx.socket.authorized,
      certificateSubjectMatches: (ctx, property, expected) => (
        property === 'tls_client_auth_san_dns'
        && ctx.socket.getPeerX509Certificate().subjectAltName.split(', ').includes(`DNS:${expected}`)),
    },
    resourceIndicators: {
      enabled: true,
      getResourceServerInfo: (ctx, resource) => ({ accessTokenFormat: 'jwt', audience: resource, scope: 'read' }),
    },
    revocation: { enabled: true },
  },
  // Each refresh token is used once. After a second use the whole grant is revoked.
  rotateRefreshToken: true,
  pkce: { required: () => true },
  scopes: ['openid', 'offline_access', 'read'],
  ttl: {
    AccessToken: 3600, ClientCredentials: 600, DeviceCode: 600, Grant: 86400, RefreshToken: 7200,
  },
});
provider.on('server_error', (ctx, error) => { console.error(error); });
const serve = provider.callback();
const paths = [];
listener.on('request', (request, response) => {
  paths.push(request.url.split('?')[0]);
  serve(request, response);
});

const say = (line) => { process.stdout.write(`${line}\n`); };
const pem = ({ privateKey }) => privateKey.export({ format: 'pem', type: 'pkcs8' });
say(JSON.stringify({
  issuer,
  keys: Object.fromEntries(Object.entries(keys).map(([name, pair]) => [name, pem(pair)])),
}));
for await (const line of createInterface({ input: process.stdin })) {
  const [order, argument] = line.split(' ');
  if (order === 'later') {
    moved += Number(argument);
    say('ok');
  } else if (order === 'requests') {
    say(String(paths.filter((path) => path === argument).length));
  } else {
    say('unknown order');
  }
}
process.exit();
