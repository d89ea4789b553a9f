from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("accounts", "0006_directories")]

    operations = [
        migrations.AddField(
            model_name="tenant",
            name="requires_review",
            field=models.BooleanField(
                default=False,
                help_text="A policy's rules are published only after a second person has approved them.",
                verbose_name="policies are reviewed",
            ),
        ),
    ]
