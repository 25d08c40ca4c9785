from flairsearch.cli import main

main()
