// simple-oauth2: what a program keeps of `AccessToken`, as JSON.
import { library, serve, write } from "./endpoint.mjs";

const { AuthorizationCode } = library("simple-oauth2");
const host = await serve(() => ({
  access_token: "access",
  token_type: "Bearer",
  expires_in: 3600,
  refresh_token: "rotated",
  scope: "read write",
}));
const client = new AuthorizationCode({
  client: { id: "client", secret: "client-secret" },
  auth: { tokenHost: host },
});
const signedIn = await client.getToken({ code: "code", redirect_uri: "http://127.0.0.1:9/" });
write("signed-in", signedIn);
write("refreshed", await signedIn.refresh());
