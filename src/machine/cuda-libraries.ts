/**
 * The CUDA 12 libraries that `setup --cuda` keeps in the user's cache: one stack serves learner and actors.
 * Knows where they are, nothing of what loads them.
 */
import { existsSync } from "node:fs";
import { join } from "node:path";
import { cacheRoot } from "./cache.js";

/** Folder of the prepared libraries, whether or not it is there. */
const cudaLibraryFolder = (): string => join(cacheRoot(), "cuda-12");

/** What LD_LIBRARY_PATH of a process on a GPU must hold; empty where nothing is prepared and the system's own must do. */
export const cudaLibraryPath = (): string[] => [cudaLibraryFolder()].filter((folder) => existsSync(folder));
