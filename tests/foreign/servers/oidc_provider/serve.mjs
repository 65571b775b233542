// A foreign identity server for the tests: oidc-provider, as strict as it can be.
//
// It rotates refresh tokens, and a second use of one ends the whole grant, with its live access
// token. It demands PKCE, names itself in the callback (RFC 9207), and grants offline_access only
// with prompt=consent. Its pages have another origin than its authorize endpoint.
//
// It listens on free ports, prints its URL, and serves until its process is ended. Its user is
// "ada" with the password "lovelace"; the command line gives its client.

import { createServer } from 'node:http';

import { Provider } from 'oidc-provider';

const HOST = '127.0.0.1';

const FORMS = {
  login: '<input name="username"><input name="password" type="password"><button>Log in</button>',
  consent: '<p>Read the books?</p><button>Allow</button>',
};

const [clientId, clientSecret, redirectUri] = process.argv.slice(2);

async function listening() {
  const server = createServer();
  await new Promise((resolve) => { server.listen(0, HOST, resolve); });
  return [server, `http://${HOST}:${server.address().port}`];
}

async function formOf(request) {
  let body = '';
  for await (const part of request) body += part;
  return new URLSearchParams(body);
}

// The result of a page, or null if the user must try again.
async function resultOf(prompt, params, session, form) {
  if (prompt === 'login') {
    const isAda = form.get('username') === 'ada' && form.get('password') === 'lovelace';
    return isAda ? { login: { accountId: 'ada' } } : null;
  }
  const grant = new provider.Grant({ accountId: session.accountId, clientId: params.client_id });
  grant.addOIDCScope(params.scope);
  return { consent: { grantId: await grant.save() } };
}

async function page(request, response) {
  const { prompt, params, session } = await provider.interactionDetails(request, response);
  if (request.method === 'POST') {
    const result = await resultOf(prompt.name, params, session, await formOf(request));
    if (result) {
      await provider.interactionFinished(request, response, result);
      return;
    }
  }
  response.setHeader('Content-Type', 'text/html');
  response.end(`<form method="post">${FORMS[prompt.name]}</form>`);
}

const [main, url] = await listening();
const [pages, pagesUrl] = await listening();

const provider = new Provider(url, {
  claims: { openid: ['sub'] },
  clients: [{
    client_id: clientId,
    client_secret: clientSecret,
    grant_types: ['authorization_code', 'refresh_token'],
    redirect_uris: [redirectUri],
  }],
  cookies: { keys: ['of a test'] },
  features: {
    devInteractions: { enabled: false },
    introspection: { enabled: true },
    revocation: { enabled: true },
  },
  findAccount: (context, id) => ({ accountId: id, claims: () => ({ sub: id }) }),
  interactions: { url: (context, interaction) => `${pagesUrl}/interaction/${interaction.uid}` },
  pkce: { methods: ['S256'], required: () => true },
  rotateRefreshToken: true,
  scopes: ['offline_access', 'books'],
  ttl: { AccessToken: 1800, Grant: 86400, Interaction: 600, RefreshToken: 86400, Session: 86400 },
});
main.on('request', provider.callback());
pages.on('request', page);
console.log(url);
