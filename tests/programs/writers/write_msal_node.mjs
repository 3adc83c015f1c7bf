// MSAL for Node.js: its serialized cache, after sign-ins of two people, and after one of a service.
import { library, write } from "./endpoint.mjs";

const { ConfidentialClientApplication, PublicClientApplication } = library("@azure/msal-node");
const authority = "https://login.microsoftonline.com/tenant";
const encoded = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");

// MSAL accepts only hosts of Microsoft.
const microsoft = {
  async sendGetRequestAsync() {
    const body = {
      issuer: `${authority}/v2.0`,
      authorization_endpoint: `${authority}/oauth2/v2.0/authorize`,
      end_session_endpoint: `${authority}/oauth2/v2.0/logout`,
      jwks_uri: `${authority}/discovery/v2.0/keys`,
      token_endpoint: `${authority}/oauth2/v2.0/token`,
    };
    return { status: 200, headers: {}, body };
  },
  async sendPostRequestAsync(url, options) {
    const code = new URLSearchParams(options.body).get("code");
    const service = { access_token: "access-of-the-service", token_type: "Bearer", expires_in: 3600 };
    if (!code) return { status: 200, headers: {}, body: service };
    const id = code.split("@")[0];
    const now = Math.floor(Date.now() / 1000);
    const claims = {
      aud: "client",
      exp: now + 3600,
      iat: now,
      iss: `${authority}/v2.0`,
      oid: id,
      preferred_username: code,
      sub: id,
      tid: "tenant",
    };
    const body = {
      ...service,
      access_token: `access-of-${code}`,
      client_info: encoded({ uid: id, utid: "tenant" }),
      ext_expires_in: 7200,
      id_token: `${encoded({ alg: "none" })}.${encoded(claims)}.${encoded({})}`,
      refresh_token: `refresh-of-${code}`,
      scope: "User.Read openid profile",
    };
    return { status: 200, headers: {}, body };
  },
};

const auth = {
  authority,
  clientId: "client",
  knownAuthorities: ["login.microsoftonline.com"],
};
const system = { networkClient: microsoft };
const people = new PublicClientApplication({ auth, system });
for (const code of ["ada@example.com", "bob@example.com"]) {
  await people.acquireTokenByCode({ code, scopes: ["User.Read"], redirectUri: "http://127.0.0.1:9/" });
}
write("two-accounts", people.getTokenCache().serialize());

const service = new ConfidentialClientApplication({ auth: { ...auth, clientSecret: "client-secret" }, system });
await service.acquireTokenByClientCredential({ scopes: ["https://graph.microsoft.com/.default"] });
write("service", service.getTokenCache().serialize());
