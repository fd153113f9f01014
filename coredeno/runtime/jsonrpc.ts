/** Writing JSON-RPC 2.0 messages around values that are JSON already. Pure: no I/O. */

import type { WireError } from "./errors.ts";
import type { Slot } from "./slots.ts";
import { writeJson } from "./values.ts";

export function resultText(id: number, value: string, slots: readonly Slot[]): string {
  return `{"jsonrpc":"2.0","id":${id},"result":${value}${bytesText(slots)}}`;
}

export function errorText(id: number, error: WireError): string {
  return `{"jsonrpc":"2.0","id":${id},"error":${writeJson(error)}}`;
}

export function notificationText(method: string, params: string, module?: string, trace?: string): string {
  return `{"jsonrpc":"2.0","method":${writeJson(method)},"params":${params}` +
    member("module", module) + member("trace", trace) + "}";
}

/** A request of a module to the host, or main's own if `from` says nothing. */
export function requestText(
  id: number,
  method: string,
  params: string,
  slots: readonly Slot[],
  from: { module?: string | undefined; deadline_ms?: number | undefined; trace?: string | undefined },
): string {
  return `{"jsonrpc":"2.0","id":${id},"method":${writeJson(method)},"params":${params}` +
    member("module", from.module) + member("deadline_ms", from.deadline_ms) + member("trace", from.trace) +
    bytesText(slots) + "}";
}

function member(key: string, value: string | number | undefined): string {
  return value === undefined ? "" : `,"${key}":${writeJson(value)}`;
}

function bytesText(slots: readonly Slot[]): string {
  return slots.length === 0 ? "" : `,"bytes":${writeJson(slots)}`;
}
