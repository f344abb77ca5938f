BEGIN TRANSACTION;
CREATE TABLE experiments (
	id TEXT NOT NULL, 
	name TEXT NOT NULL, 
	label TEXT, 
	config_json JSON NOT NULL, 
	config_hash TEXT, 
	dataset_fingerprint TEXT, 
	corpus_fingerprint TEXT, 
	status TEXT NOT NULL CHECK (status IN ('PENDING', 'RUNNING', 'COMPLETED', 'FAILED')), 
	attempt INTEGER NOT NULL, 
	error TEXT, 
	provenance_json JSON, 
	created_at TEXT, 
	started_at TEXT, 
	completed_at TEXT, 
	lease_owner TEXT, 
	lease_expires FLOAT, 
	fence INTEGER NOT NULL, 
	PRIMARY KEY (id)
);
INSERT INTO "experiments" VALUES('unfinished','unfinished',NULL,'{"name":"old","prompt":{"stop":["\n"],"template":"Question: {question}\nAnswer:"},"seed":0}','9803bda4c270b444',NULL,NULL,'RUNNING',1,NULL,NULL,'2026-11-20T09:00:00.000+00:00','2026-11-20T09:00:00.000+00:00',NULL,'lab-3:4711:ab12cd34',1790000060.0,1);
INSERT INTO "experiments" VALUES('old-4','old','exp_3','{"name":"old","prompt":{"stop":["\n"],"template":"Question: {question}\nAnswer:"},"seed":0}','9803bda4c270b444','d1',NULL,'COMPLETED',1,NULL,'{"attempts":[{"attempt":1,"begun_at":"2026-11-29T09:00:00.000+00:00","code":"1f0c2a3b4d5e6f70","commit":"1111111111111111111111111111111111111111","engine":{"engine":"fake"},"packages":{"torch":"2.13.0"},"python":"3.11.7","uncommitted_changes":false},{"attempt":3,"begun_at":"2026-11-29T10:00:00.000+00:00","code":"1f0c2a3b4d5e6f70","commit":"2222222222222222222222222222222222222222","engine":{"engine":"fake"},"packages":{"torch":"2.13.0"},"python":"3.11.7","uncommitted_changes":false}],"commit":"abc","contents":{"dataset.name":"00112233445566aa"},"cpus":2}','2026-11-20T09:00:00.000+00:00','2026-11-20T09:00:00.000+00:00','2026-11-20T09:00:00.000+00:00',NULL,NULL,0);
CREATE TABLE meta (
	schema_version INTEGER NOT NULL, 
	PRIMARY KEY (schema_version)
);
INSERT INTO "meta" VALUES(3);
CREATE TABLE migrations (
	name TEXT NOT NULL, 
	applied_at TEXT NOT NULL, 
	PRIMARY KEY (name)
);
INSERT INTO "migrations" VALUES('0001_experiments','2026-11-20T09:00:00.000+00:00');
INSERT INTO "migrations" VALUES('0002_studies','2026-11-20T09:00:00.000+00:00');
INSERT INTO "migrations" VALUES('0003_names_of_migrations','2026-11-20T09:00:00.000+00:00');
INSERT INTO "migrations" VALUES('0004_costs_of_rows','2026-11-20T09:00:00.000+00:00');
INSERT INTO "migrations" VALUES('0005_requests','2026-11-20T09:00:00.000+00:00');
INSERT INTO "migrations" VALUES('0006_attempts_of_rows','2026-11-29T12:00:52.497+00:00');
INSERT INTO "migrations" VALUES('0007_prompts_once','2026-11-29T12:00:52.497+00:00');
CREATE TABLE requests (
	experiment_id TEXT NOT NULL, 
	requested_at TEXT, 
	error TEXT, 
	questions INTEGER, 
	PRIMARY KEY (experiment_id), 
	FOREIGN KEY(experiment_id) REFERENCES experiments (id)
);
CREATE TABLE results (
	id INTEGER NOT NULL, 
	experiment_id TEXT NOT NULL, 
	n INTEGER, 
	answered INTEGER, 
	failed INTEGER, 
	abstained INTEGER, 
	accuracy FLOAT, 
	exact_match FLOAT, 
	f1 FLOAT, 
	contains FLOAT, 
	latency_p50 FLOAT, 
	latency_p95 FLOAT, 
	latency_p99 FLOAT, 
	tokens_used BIGINT, 
	throughput FLOAT, 
	peak_memory_mb FLOAT, 
	summary JSON, 
	faithfulness FLOAT, 
	hallucination_rate FLOAT, 
	PRIMARY KEY (id), 
	UNIQUE (experiment_id), 
	FOREIGN KEY(experiment_id) REFERENCES experiments (id)
);
INSERT INTO "results" VALUES(2,'old-4',2,1,1,0,0.5,0.5,1.66666666666666657414e-01,NULL,12.5,NULL,NULL,11,NULL,NULL,'{"accuracy":{"high":1.0,"low":0.0,"n":2,"value":0.5}}',0.75,0.25);
CREATE TABLE runs (
	id INTEGER NOT NULL, 
	experiment_id TEXT NOT NULL, 
	example_id TEXT NOT NULL, 
	position INTEGER NOT NULL, 
	input_text TEXT, 
	output_text TEXT, 
	answer TEXT, 
	tokens_in INTEGER, 
	tokens_out INTEGER, 
	latency_ms FLOAT, 
	queue_ms FLOAT, 
	cached BOOLEAN, 
	correct FLOAT, 
	abstained BOOLEAN, 
	error_type TEXT, 
	error TEXT, 
	scores JSON, 
	trace JSON, ttft_ms FLOAT, tokens_cached INTEGER, cost FLOAT, cpu_s FLOAT, finish_reason TEXT, attempt INTEGER, 
	PRIMARY KEY (id), 
	UNIQUE (experiment_id, example_id), 
	FOREIGN KEY(experiment_id) REFERENCES experiments (id)
);
INSERT INTO "runs" VALUES(3,'old-4','q0',0,'Which city – “Ünïcode”? ',' Paris
','Paris',9,2,12.5,0.1,0,1.0,0,NULL,NULL,'{"exact_match":1.0,"f1":0.3333333333333333}','{"attributes":{"example":"q0"},"duration_ms":12.5,"kind":"chain","name":"naive","start_ms":0.0}',3.5,4,3.00000000000000044408e-01,0.25,'length',1);
INSERT INTO "runs" VALUES(4,'old-4','q1',1,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,'EngineError','the server did not answer',NULL,NULL,NULL,NULL,NULL,NULL,NULL,3);
CREATE TABLE studies (
	name TEXT NOT NULL, 
	plan_json JSON NOT NULL, 
	plan_hash TEXT NOT NULL, 
	frozen_at TEXT NOT NULL, 
	PRIMARY KEY (name)
);
INSERT INTO "studies" VALUES('study','{"alpha":0.05,"hypotheses":[]}','a79bda0d14d06886','2026-11-20T09:00:00.000+00:00');
COMMIT;
