-- catalog.sqlite of format 1, before it carried its number; tests/test_database.py writes the segments that belong to it.
BEGIN TRANSACTION;
CREATE TABLE contents (
	id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	hash BLOB NOT NULL, 
	UNIQUE (hash)
);
INSERT INTO "contents" VALUES(1,X'03030303030303030303030303030303');
INSERT INTO "contents" VALUES(2,X'09090909090909090909090909090909');
INSERT INTO "contents" VALUES(3,X'14141414141414141414141414141414');
INSERT INTO "contents" VALUES(4,X'28282828282828282828282828282828');
CREATE TABLE images (
	id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	root INTEGER NOT NULL, 
	path TEXT NOT NULL, 
	size INTEGER NOT NULL, 
	mtime_ns INTEGER NOT NULL, 
	content INTEGER NOT NULL, 
	UNIQUE (root, path), 
	FOREIGN KEY(root) REFERENCES roots (id), 
	FOREIGN KEY(content) REFERENCES contents (id)
);
INSERT INTO "images" VALUES(1,1,'3.png',100,1700000000000000001,1);
INSERT INTO "images" VALUES(2,1,'sub/9.png',101,1700000000000000002,2);
INSERT INTO "images" VALUES(3,1,'twin of 9.png',101,1700000000000000003,2);
INSERT INTO "images" VALUES(5,2,'40 ''ü''.png',102,1700000000000000004,4);
CREATE TABLE roots (
	id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	path TEXT NOT NULL, 
	UNIQUE (path)
);
INSERT INTO "roots" VALUES(1,'/photos');
INSERT INTO "roots" VALUES(2,'/disk/more photos');
CREATE TABLE segments (
	id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	count INTEGER NOT NULL, 
	codec TEXT NOT NULL
);
INSERT INTO "segments" VALUES(1,2,'fp16');
INSERT INTO "segments" VALUES(2,2,'fp16');
CREATE TABLE skipped (
	path TEXT, 
	reason TEXT
);
INSERT INTO "skipped" VALUES('/photos/text.png','damaged');
CREATE TABLE state (
	"key" TEXT NOT NULL, 
	value INTEGER NOT NULL, 
	PRIMARY KEY ("key")
);
INSERT INTO "state" VALUES('generation',3);
CREATE TABLE views (
	id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	content INTEGER NOT NULL, 
	segment INTEGER NOT NULL, 
	"row" INTEGER NOT NULL, 
	checksum INTEGER NOT NULL, 
	width INTEGER NOT NULL, 
	height INTEGER NOT NULL, 
	"left" FLOAT NOT NULL, 
	top FLOAT NOT NULL, 
	"right" FLOAT NOT NULL, 
	bottom FLOAT NOT NULL, 
	UNIQUE (segment, "row"), 
	FOREIGN KEY(content) REFERENCES contents (id), 
	FOREIGN KEY(segment) REFERENCES segments (id)
);
INSERT INTO "views" VALUES(1,1,1,0,2525676408,64,64,0.0,0.0,64.0,64.0);
INSERT INTO "views" VALUES(2,2,1,1,2818478156,64,64,0.0,0.0,64.0,64.0);
INSERT INTO "views" VALUES(3,3,2,0,848714249,64,64,0.0,0.0,64.0,64.0);
INSERT INTO "views" VALUES(4,4,2,1,866840527,128,64,32.0,0.0,96.0,64.0);
CREATE INDEX ix_images_content ON images (content);
CREATE INDEX ix_views_content ON views (content);
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('roots',2);
INSERT INTO "sqlite_sequence" VALUES('segments',2);
INSERT INTO "sqlite_sequence" VALUES('contents',4);
INSERT INTO "sqlite_sequence" VALUES('views',4);
INSERT INTO "sqlite_sequence" VALUES('images',5);
COMMIT;
