// google-auth-library: what a program keeps of `getToken`, of the event `tokens`, and of `credentials`.
import { library, serve, write } from "./endpoint.mjs";

const { OAuth2Client } = library("google-auth-library");
const lifetime = { expires_in: 3600, refresh_token: "rotated", scope: "read write" };
const host = await serve(({ url }) => ({
  access_token: "access",
  token_type: "Bearer",
  ...(url === "/token" ? lifetime : {}),
}));
const client = (path) =>
  new OAuth2Client({
    clientId: "client",
    clientSecret: "client-secret",
    endpoints: { oauth2TokenUrl: host + path },
  });

write("fetched", (await client("/token").getToken("code")).tokens);

const refreshing = client("/token");
const heard = new Promise((resolve) => refreshing.on("tokens", resolve));
refreshing.setCredentials({ refresh_token: "first" });
await refreshing.getAccessToken();
write("heard", await heard);
write("kept", refreshing.credentials);

write("no-expiry", (await client("/only-access").getToken("code")).tokens);
