/**
 * 1 for an odd number of digits: what even a model of random weights earns half of the time
 * (peers/trl_grpo.py has it too).
 */
export default (completions) => completions.map(({ text }) => (text.match(/[0-9]/g) ?? []).length % 2);
