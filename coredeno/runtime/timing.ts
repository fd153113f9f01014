/** Waiting, but not for ever. */

/** What `setTimeout` takes; it would take more for none at all. */
export const LONGEST_TIMER_MS = 2 ** 31 - 1;

/** Wait for `work`, but not longer than this; whether it was done. */
export async function within(ms: number, work: Promise<unknown>): Promise<boolean> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const tooLate = new Promise<false>((resolve) => {
    timer = setTimeout(resolve, Math.min(ms, LONGEST_TIMER_MS), false);
  });
  const isDone = await Promise.race([work.then(() => true), tooLate]);
  clearTimeout(timer);
  return isDone;
}
