from polysoma.cli import main

main()
