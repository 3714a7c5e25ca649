// An OpenID provider, as CI systems and companies run one: CI jobs get a token each (client credentials),
// people log in with a code (the device flow).
//
//   oidc-issuer [--port PORT] [--certificate FILE --key FILE]
//
// Without a certificate it speaks plain HTTP. What an administrator does to a provider, and a person in a
// browser, is done on a control port, by POST:
//
//   /rotate                              new signing keys; the last ones still verify
//   /approve?user_code=CODE&account=ID   a person enters the code, logs in and agrees
//   /deny?user_code=CODE                 a person enters the code and refuses

import { randomUUID } from 'node:crypto';
import { readFileSync } from 'node:fs';
import * as http from 'node:http';
import * as https from 'node:https';
import { parseArgs } from 'node:util';

import { exportJWK, generateKeyPair } from 'jose';
import { Provider } from 'oidc-provider';

// The last one signs. Those before it are published as long, as any provider does: a token may be on its way.
const GENERATIONS_KEPT = 8;

const SECRET = 'known to every test';

// One client for each kind of job. What their tokens say is called as GitHub calls it.
const jobs = {
  'acme-app': job('acme/app', 'refs/heads/main'),
  'acme-app-es256': { ...job('acme/app', 'refs/heads/main'), algorithm: 'ES256' },
  'acme-app-feature': job('acme/app', 'refs/heads/feature'),
  'acme-app-for-others': { ...job('acme/app', 'refs/heads/main'), audience: 'other.test' },
  'globex-app': job('globex/app', 'refs/heads/main'),
};

const people = {
  alice: { preferred_username: 'alice@acme.test', groups: ['developers', 'release'] },
  mallory: { preferred_username: 'mallory@globex.test', groups: [] },
};

function job(repository, ref) {
  return {
    audience: 'registry.test',
    algorithm: 'RS256',
    claims: {
      sub: `repo:${repository}:ref:${ref}`,
      repository,
      repository_id: '4711',
      repository_owner: repository.split('/')[0],
      repository_visibility: 'private',
      ref,
      ref_type: 'branch',
      // Texts, as GitHub has them.
      ref_protected: 'true',
      environment: 'production',
      event_name: 'push',
      runner_environment: 'github-hosted',
    },
  };
}

const clients = Object.keys(jobs).map((client_id) => ({
  client_id,
  client_secret: SECRET,
  token_endpoint_auth_method: 'client_secret_post',
  grant_types: ['client_credentials'],
  redirect_uris: [],
  response_types: [],
}));
clients.push({
  client_id: 'berth-cli',
  application_type: 'native',
  token_endpoint_auth_method: 'none',
  grant_types: ['urn:ietf:params:oauth:grant-type:device_code'],
  redirect_uris: [],
  response_types: [],
});

async function generation() {
  const keys = ['RS256', 'ES256'].map(async (alg) => {
    const { privateKey } = await generateKeyPair(alg, { extractable: true });
    return { ...(await exportJWK(privateKey)), alg, use: 'sig', kid: randomUUID() };
  });
  return Promise.all(keys);
}

function provider(issuer, generations) {
  const configuration = {
    clients,
    // Of several keys for one algorithm, the first signs.
    jwks: { keys: generations.flat() },
    cookies: { keys: [randomUUID()] },
    claims: { openid: ['sub'], profile: ['preferred_username', 'groups'] },
    scopes: ['openid', 'profile'],
    // Whoever verifies an ID token offline asks no userinfo endpoint.
    conformIdTokenClaims: false,
    findAccount: (_, accountId) => ({
      accountId,
      claims: () => ({ sub: accountId, ...people[accountId] }),
    }),
    features: {
      clientCredentials: { enabled: true },
      devInteractions: { enabled: false },
      deviceFlow: { enabled: true },
      resourceIndicators: {
        enabled: true,
        defaultResource: (_, client) => (jobs[client.clientId] ? 'urn:registry' : []),
        getResourceServerInfo: (_, resource, client) => ({
          scope: '',
          audience: jobs[client.clientId].audience,
          accessTokenFormat: 'jwt',
          jwt: { sign: { alg: jobs[client.clientId].algorithm } },
        }),
      },
    },
    formats: {
      customizers: {
        jwt(_, token, jwt) {
          Object.assign(jwt.payload, jobs[token.clientId]?.claims);
        },
      },
    },
    ttl: {
      ClientCredentials: 600,
      AccessToken: 3600,
      DeviceCode: 600,
      Grant: 3600,
      IdToken: 3600,
    },
  };
  const made = new Provider(issuer, configuration);
  made.on('server_error', (_, error) => console.error(error));
  return made;
}

// Makes a device code what it is after a person was on the verification page.
async function answer(current, parameters) {
  const code = await current.DeviceCode.findByUserCode(parameters.get('user_code').replace(/\W/g, ''));
  if (!code || code.accountId || code.error) throw new Error('nobody waits with this code');
  const accountId = parameters.get('account');
  if (accountId) {
    const grant = new current.Grant({ accountId, clientId: code.clientId });
    grant.addOIDCScope(code.params.scope);
    Object.assign(code, {
      accountId,
      authTime: Math.floor(Date.now() / 1000),
      grantId: await grant.save(),
      scope: code.params.scope,
      sessionUid: randomUUID(),
    });
  } else {
    Object.assign(code, { error: 'access_denied', errorDescription: 'the person refused' });
  }
  await code.save();
}

function listen(server, port) {
  return new Promise((resolve, reject) => {
    server.once('error', reject);
    server.listen(port, '127.0.0.1', () => resolve(server.address().port));
  });
}

const { values } = parseArgs({
  options: {
    port: { type: 'string', default: '0' },
    certificate: { type: 'string' },
    key: { type: 'string' },
  },
});

let generations = [await generation()];
let current;
const handle = (request, response) => current.callback()(request, response);
const tls = values.certificate && {
  cert: readFileSync(values.certificate),
  key: readFileSync(values.key),
};
const server = tls ? https.createServer(tls, handle) : http.createServer(handle);
const port = await listen(server, Number(values.port));
const issuer = `${tls ? 'https' : 'http'}://127.0.0.1:${port}`;
current = provider(issuer, generations);

const actions = {
  async '/rotate'() {
    generations = [await generation(), ...generations].slice(0, GENERATIONS_KEPT);
    // Keys are given to a provider once. Logins that wait for a person are lost with the old one.
    current = provider(issuer, generations);
  },
  '/approve': (parameters) => answer(current, parameters),
  '/deny': (parameters) => answer(current, parameters),
};
const control = http.createServer(async (request, response) => {
  const { pathname, searchParams } = new URL(request.url, 'http://127.0.0.1');
  try {
    if (request.method !== 'POST' || !actions[pathname]) throw new Error(`no ${request.method} ${pathname}`);
    await actions[pathname](searchParams);
    response.writeHead(204).end();
  } catch (error) {
    response.writeHead(400).end(`${error.message}\n`);
  }
});
console.log(`control on http://127.0.0.1:${await listen(control, 0)}`);
console.log(`listening on ${issuer}`);
