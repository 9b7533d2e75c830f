/* Stand-in for oneDNN: one function. */
long dnnl_add(long left, long right) { return left + right; }
