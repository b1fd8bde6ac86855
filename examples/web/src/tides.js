const PERIOD = 12.42; // hours from one high water to the next, on average

/** Give the height of the water, in metres about the mean, some hours after high water. */
export function height(hours, range = 4) {
  return (range / 2) * Math.cos((2 * Math.PI * hours) / PERIOD);
}

/** Say in words how the water stands. */
export function describe(hours) {
  const rising = height(hours + 0.1) > height(hours);
  return `${height(hours).toFixed(1)} m, ${rising ? "rising" : "falling"}`;
}
