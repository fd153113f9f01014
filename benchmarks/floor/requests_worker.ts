/// <reference lib="webworker" />
declare const self: DedicatedWorkerGlobalScope;
type Request = { id: number; args: unknown };
type Plan = { alone: number; together: number; inFlight: number };

const pending = new Map<number, (value: unknown) => void>();
let batch: Request[] = [];
let nextId = 0;

function request(args: unknown): Promise<unknown> {
  return new Promise((resolve) => {
    const id = nextId++;
    pending.set(id, resolve);
    if (batch.length === 0) {
      queueMicrotask(() => {
        self.postMessage({ batch });
        batch = [];
      });
    }
    batch.push({ id, args });
  });
}

async function measure(plan: Plan): Promise<void> {
  for (let i = 0; i < plan.alone / 4; i++) await request([i]);
  let start = performance.now();
  for (let i = 0; i < plan.alone; i++) await request([i]);
  const aloneUs = (performance.now() - start) * 1000 / plan.alone;
  let left = plan.together;
  const run = async () => {
    while (left-- > 0) await request([left]);
  };
  start = performance.now();
  await Promise.all(Array.from({ length: plan.inFlight }, run));
  const perSecond = plan.together * 1000 / (performance.now() - start);
  self.postMessage({ done: { alone_us: aloneUs, per_second: perSecond } });
}

self.onmessage = (event: MessageEvent<Request[] | { start: Plan }>) => {
  if (Array.isArray(event.data)) {
    for (const answer of event.data) {
      pending.get(answer.id)?.(answer.args);
      pending.delete(answer.id);
    }
  } else {
    measure(event.data.start);
  }
};
