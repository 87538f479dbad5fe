/** study.json as reports and status read it; study/directory.ts writes it. Knows its form alone. */
import { join } from "node:path";
import { z } from "zod";
import { readJson } from "./run-files.js";

const setting = z.object({ key: z.string(), values: z.record(z.string(), z.unknown()) });
const studySchema = z.looseObject({
  definition: z.looseObject({
    name: z.string(),
    algorithms: z.record(z.string(), z.unknown()),
    seeds: z.array(z.int()),
    eval: z.looseObject({ prompts: z.array(z.string()) }),
    primary: z.enum(["sampled", "greedy"]),
  }),
  differences: z.array(setting),
  own: z.array(setting),
  commit: z.string().nullable(),
  uncommitted_changes: z.boolean().nullable().optional(),
  machine: z.looseObject({}),
});
export type StudyRecord = z.infer<typeof studySchema>;

/** @throws UserError when the file is damaged or of another form */
export const readStudy = (dir: string): StudyRecord => readJson(join(dir, "study.json"), studySchema);
