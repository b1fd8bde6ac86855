import { expect, test } from "vitest";
import { describe, height } from "../src/tides.js";

test("high water is half the range above the mean", () => {
  expect(height(0)).toBe(2);
  expect(height(12.42)).toBeCloseTo(2);
});

test("the water falls after high water and rises before it", () => {
  expect(describe(3)).toContain("falling");
  expect(describe(9)).toContain("rising");
});
