/**
 * Turns ONNX Runtime's telemetry off; import this before the library is loaded.
 * The library reads the variable from the process's environment, which a worker thread cannot set:
 * so every process sets it at its start.
 */
process.env["ORT_DISABLE_TELEMETRY"] = "1";
