"""The plugins of the chaos: those that do what they are asked, and those that do their worst."""

from __future__ import annotations

from pathlib import Path

import msgspec

INNOCENT = """
let core;
export function init(c) { core = c; }
export const echo = (value) => value;
export const serve = async (value) => await core.services.echo.echo(value);
export const get = async (key) => await core.store.get(key);
export async function set(key, value) { await core.store.set(key, value); return value; }
export async function keep(text) {
  await core.files.write(`kept/${core.code}.txt`, text);
  return await core.files.readText(`kept/${core.code}.txt`);
}
"""
INNOCENT_MANIFEST = "permissions: {read: [kept], write: [kept]}\nservices: {echo: []}\n"

GUILTY = """
let core;
export function init(c) { core = c; }
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
export function work(ms) { const end = Date.now() + ms; while (Date.now() < end); }
export function loop() { for (;;); }
export function leave() { Deno.exit(3); }
export function trip() { setTimeout(() => { throw new Error("tripped"); }, 0); return pause(5000); }
export function heap() { const kept = []; for (;;) kept.push(new Array(1e6).fill(Math.random())); }
export async function buffers() {
  const kept = [];
  for (;;) { kept.push(new Uint8Array(1 << 22).fill(1)); await pause(1); }
}
export async function chatter() {
  const end = Date.now() + 300;
  while (Date.now() < end) { for (let i = 0; i < 200; i++) console.log("chatter " + i); await pause(1); }
}
export async function beg() {
  const end = Date.now() + 300;
  while (Date.now() < end) await Promise.allSettled(Array.from({ length: 200 }, () => core.store.get("none")));
}
"""


class Habit(msgspec.Struct, frozen=True):
    """What a guilty module does whenever it is called, and whether that brings it down."""

    function: str
    is_deadly: bool


HABITS = (
    Habit("loop", is_deadly=True),
    Habit("heap", is_deadly=True),
    Habit("chatter", is_deadly=False),
    Habit("leave", is_deadly=True),
    Habit("beg", is_deadly=False),
    Habit("buffers", is_deadly=True),
    Habit("trip", is_deadly=False),
)


def write_plugin(folder: Path, code: str, source: str, manifest: str = "") -> Path:
    """Write a plugin of this code beneath `folder`; gives where it lies."""
    plugin = folder / code
    (plugin / ".core").mkdir(parents=True, exist_ok=True)
    (plugin / ".core" / "view.yml").write_text(f"code: {code}\nversion: 1.0.0\n{manifest}")
    (plugin / "main.ts").write_text(source)
    return plugin
