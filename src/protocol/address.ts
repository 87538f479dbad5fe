/** Where learner and actors may meet: this machine only. Knows text, opens nothing. */
import { UserError } from "../errors.js";

/** True for a name or address of this machine, IPv6 with or without brackets. */
export function isLoopback(host: string): boolean {
  return host === "localhost" || host === "[::1]" || host === "::1" || /^127(\.\d{1,3}){3}$/.test(host);
}

/**
 * Null for "ipc"; else host and port, whose next port serves the weights.
 * @throws UserError for anything else: traffic is neither encrypted nor authenticated
 */
export function parseAddress(address: string): { readonly host: string; readonly port: number } | null {
  if (address === "ipc") return null;
  const [, host = "", digits = ""] = /^tcp:\/\/([^/]+):(\d+)$/.exec(address) ?? [];
  const port = Number(digits);
  if (!isLoopback(host) || host === "::1" || port < 1 || port > 65_534)
    throw new UserError(
      `transport.address must be "ipc" or tcp://127.0.0.1:PORT with PORT from 1 to 65534, found "${address}". Other hosts are refused, because the traffic is not encrypted.`,
    );
  return { host, port };
}
