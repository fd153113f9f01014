/// <reference lib="webworker" />
declare const self: DedicatedWorkerGlobalScope;
self.onmessage = (event: MessageEvent<unknown[]>) => self.postMessage(event.data);
