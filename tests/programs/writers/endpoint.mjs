// A token endpoint for the libraries, and the place of the files that they write.
import { writeFileSync } from "node:fs";
import { createServer } from "node:http";
import { createRequire } from "node:module";
import { join } from "node:path";

const [, , directory, packages] = process.argv;

export const library = createRequire(packages);

export function write(name, value) {
  writeFileSync(join(directory, name), typeof value === "string" ? value : JSON.stringify(value));
}

/** Serves what `answer` returns as JSON, until the program ends. Returns the URL of the server. */
export async function serve(answer) {
  const server = createServer((request, response) => {
    request.resume();
    response.setHeader("Connection", "close");
    response.setHeader("Content-Type", "application/json");
    response.end(JSON.stringify(answer(request)));
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  server.unref();
  return `http://127.0.0.1:${server.address().port}`;
}
