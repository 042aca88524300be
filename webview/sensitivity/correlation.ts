/** Spearman's rank correlation; ties have their mean rank. Undefined with fewer than ten pairs or where one side is constant. */
export function spearman(x: readonly number[], y: readonly number[]): number | undefined {
  if (x.length < 10 || x.length !== y.length) {
    return undefined;
  }
  const [a, b] = [ranks(x), ranks(y)];
  const mean = (x.length - 1) / 2;
  let [covariance, varianceA, varianceB] = [0, 0, 0];
  for (let i = 0; i < a.length; i++) {
    const [da, db] = [(a[i] ?? 0) - mean, (b[i] ?? 0) - mean];
    covariance += da * db;
    varianceA += da * da;
    varianceB += db * db;
  }
  return varianceA === 0 || varianceB === 0 ? undefined : covariance / Math.sqrt(varianceA * varianceB);
}

function ranks(values: readonly number[]): readonly number[] {
  const order = values.map((_, i) => i).sort((i, j) => (values[i] ?? 0) - (values[j] ?? 0));
  const found: number[] = Array.from({ length: values.length });
  for (let start = 0; start < order.length; ) {
    let end = start + 1;
    while (end < order.length && values[order[end] ?? 0] === values[order[start] ?? 0]) {
      end++;
    }
    order.slice(start, end).forEach(i => (found[i] = (start + end - 1) / 2));
    start = end;
  }
  return found;
}
