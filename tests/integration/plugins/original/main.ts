// As modules for the original are written: flat names, snake_case results, an untyped core.
// deno-lint-ignore-file no-explicit-any
let core: any;

export async function init(c: any) {
  core = c;
  await core.storeSet("original", "state", "ready");
}

export async function everything() {
  const state = await core.storeGet("original", "state");
  const nothing = await core.storeGet("original", "nothing");
  const written = await core.fileWrite("data/note.txt", "größe");
  const { content } = await core.fileRead("data/note.txt");
  const { entries } = await core.fileList("data");
  const deleted = await core.fileDelete("data/note.txt");
  const { entries: left } = await core.fileList("data");
  const set = await core.storeSet("original", "state", "done");
  const { process_id } = await core.processStart("shell", ["-c", "sleep 100"]);
  const stopped = await core.processStop(process_id);
  return { state, nothing, written, content, entries, deleted, left, set, id: typeof process_id, stopped };
}

export async function refused() {
  const results: Record<string, unknown> = {};
  const tries: Record<string, () => Promise<unknown>> = {
    storeGet: () => core.storeGet("another", "k"),
    storeSet: () => core.storeSet("_host", "k", "v"),
    fileRead: () => core.fileRead("secret.txt"),
    fileWrite: () => core.fileWrite("../data/x", ""),
    fileList: () => core.fileList("."),
    fileDelete: () => core.fileDelete("data/none"),
    processStart: () => core.processStart("rm", ["-rf"]),
    processStop: () => core.processStop("nobody's"),
  };
  for (const [name, attempt] of Object.entries(tries)) {
    results[name] = await attempt().then(() => "granted", (error) => `${error.name} ${error.code}`);
  }
  return results;
}
