/** `setup`: prepares what `npm ci` leaves out. Quick and silent when there is nothing to do; never a reason to stop. */
import { prepareNativeBinding } from "../learner/native-binding.js";

/**
 * Puts the learner's native TensorFlow in place. Where that is not possible, says so in one line: everything then runs on
 * the wasm backend, and the exit code stays 0.
 */
export async function setup(): Promise<void> {
  const binding = await prepareNativeBinding({ log: (line) => console.error(line) });
  if (binding.ok) {
    if (binding.built) console.error("TensorFlow is ready");
  } else {
    console.error(`TensorFlow could not be prepared, so the learner runs on wasm, about 4x slower; ${binding.reason}`);
  }
}
